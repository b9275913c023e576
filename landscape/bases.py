"""The base optimizers an experiment can name: they take the descent step that every method modifies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from landscape.experiment import Experiment
from landscape.named import Named

bases = Named("base optimizer")


@bases.register
def sgd(
    params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float, **options: Any
) -> torch.optim.Optimizer:
    """torch's SGD with heavy-ball momentum."""
    return torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, **options)


@bases.register
def nag(
    params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float, **options: Any
) -> torch.optim.Optimizer:
    """torch's SGD with Nesterov's momentum."""
    return torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=True, **options)


@bases.register
def adamw(params: Iterable[nn.Parameter], lr: float, weight_decay: float, **options: Any) -> torch.optim.Optimizer:
    """torch's AdamW; `momentum` does not apply, set `base_options = {betas = [0.9, 0.999]}`."""
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, **options)


def build_base(experiment: Experiment, model: nn.Module) -> torch.optim.Optimizer:
    """The experiment's base optimizer over the parameters that require gradients."""
    given = {
        "params": [p for p in model.parameters() if p.requires_grad],
        "lr": experiment.lr,
        "momentum": experiment.momentum,
        "weight_decay": experiment.weight_decay,
    }
    base = bases.create(experiment.base, given, experiment.base_options)
    if not isinstance(base, torch.optim.Optimizer):
        raise ValueError(f"base {experiment.base!r}: expected a torch.optim.Optimizer, got {type(base).__name__}")
    return base

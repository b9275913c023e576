"""The base optimizers an experiment can name: they take the descent step that every method modifies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from torch import nn

from landscape.experiment import Experiment
from landscape.named import Named
from landscape.training.groups import parameter_groups, require_decay
from optimizers.ground.signatures import at_least, between, from_up_to

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
bases = Named("base optimizer")


@bases.register
def sgd(
    params: Parameters,
    lr: float,
    momentum: float,
    weight_decay: float,
    *,
    dampening: Annotated[float, between(0, 1)] = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """torch's SGD with heavy-ball momentum."""
    return torch.optim.SGD(
        params,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        dampening=dampening,
        nesterov=nesterov,
        maximize=maximize,
        foreach=foreach,
        differentiable=differentiable,
        fused=fused,
    )


@bases.register
def nag(
    params: Parameters,
    lr: float,
    momentum: float,
    weight_decay: float,
    *,
    maximize: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """torch's SGD with Nesterov's momentum."""
    return sgd(
        params,
        lr,
        momentum,
        weight_decay,
        nesterov=True,
        maximize=maximize,
        foreach=foreach,
        differentiable=differentiable,
        fused=fused,
    )


@bases.register
def adamw(
    params: Parameters,
    lr: float,
    weight_decay: float,
    *,
    betas: tuple[Annotated[float, from_up_to(0, 1)], Annotated[float, from_up_to(0, 1)]] = (0.9, 0.999),
    eps: Annotated[float, at_least(0)] = 1e-8,
    amsgrad: bool = False,
    maximize: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """torch's AdamW; `momentum` does not apply, set `base_options = {betas = [0.9, 0.999]}`."""
    return torch.optim.AdamW(
        params,
        lr=lr,
        weight_decay=weight_decay,
        betas=(betas[0], betas[1]),
        eps=eps,
        amsgrad=amsgrad,
        maximize=maximize,
        foreach=foreach,
        capturable=capturable,
        differentiable=differentiable,
        fused=fused,
    )


def build_base(experiment: Experiment, model: nn.Module) -> torch.optim.Optimizer:
    """The experiment's base optimizer over the parameters that require gradients."""
    given = {
        "params": parameter_groups(experiment, model),
        "lr": experiment.lr,
        "momentum": experiment.momentum,
        "weight_decay": experiment.weight_decay,
    }
    twice = sorted(set(given) & set(experiment.base_options))
    if twice:
        raise ValueError(f"base_options: {', '.join(twice)} is an option of the experiment itself; say it there alone")
    base = bases.create(experiment.base, given, experiment.base_options)
    if not isinstance(base, torch.optim.Optimizer):
        raise ValueError(f"base {experiment.base!r}: expected a torch.optim.Optimizer, got {type(base).__name__}")
    require_decay(experiment, base)
    return base

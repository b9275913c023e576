"""Parameter groups by rule: those parameters that no weight decay shrinks in one, all others in the other.

    norm   of a normalisation layer: torch's by type, a foreign one (LlamaRMSNorm) by its class's name
    bias   with `bias` in its own name, whatever its shape and layer: `fc.bias`, `attention.in_proj_bias`, `norm.bias`

A rule goes by names and types and not by shapes: scales and class tokens are vectors too, and decay unless they are a
normalisation's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from landscape.experiment import Experiment
from optimizers.sam_on import is_normalisation

RULES = {
    "norm": lambda module, name: is_normalisation(module),
    "bias": lambda module, name: "bias" in name,
}


def parameter_groups(experiment: Experiment, model: nn.Module) -> list[nn.Parameter] | list[dict[str, Any]]:
    """What the base is made of: the parameters that require gradients, or two groups of them, the exempt ones last.

    Raises:
        ValueError: A rule of `no_decay` holds for no parameter.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not experiment.no_decay:
        return trainable
    exempt: set[nn.Parameter] = set()
    for rule in experiment.no_decay:
        found = {
            parameter
            for module in model.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and RULES[rule](module, name)
        }
        if not found:
            raise ValueError(f"no_decay: {rule} holds for no parameter of model {experiment.model!r}; leave it out")
        exempt |= found
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p not in exempt]},
        {"params": [p for p in trainable if p in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def require_decay(experiment: Experiment, base: torch.optim.Optimizer) -> None:
    """Raise ValueError where there is a rule and the base knows no weight decay."""
    if experiment.no_decay and "weight_decay" not in base.defaults:
        raise ValueError(f"no_decay: base {experiment.base!r} has no weight_decay to leave out; leave out no_decay")

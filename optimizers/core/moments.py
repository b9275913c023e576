"""The first moment of an optimizer: the running average of gradients that its steps follow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from optimizers.core.norms import shards

# torch's SGD, RMSprop and Muon keep the first; the Adam family, Lion and most others keep the second.
_KEYS = ("momentum_buffer", "exp_avg")


def moment(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    """The first moment of one parameter as `optimizer` keeps it, without bias correction; None before its first step."""
    state = optimizer.state.get(parameter, {})
    for key in _KEYS:
        if (found := state.get(key)) is not None:
            return found
    return None


def coming(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
    """What torch's SGD would follow from here with this gradient, g + λw + μv, Nesterov left out; of another base, g.

    A new tensor beside the parameter's (its shard), −g for g where the loss is maximised.
    """
    ahead = gradient.neg() if group.get("maximize", False) else gradient.clone()
    if isinstance(optimizer, SGD):
        ahead.add_(shards([parameter])[0], alpha=group["weight_decay"])
        if (velocity := moment(optimizer, parameter)) is not None:
            ahead.add_(shards([velocity])[0], alpha=group["momentum"])
    return ahead


def check_moments(optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
    """Raise `ValueError` if `optimizer` has a state for these parameters, but no first moment in it."""
    kept = {key for parameter in parameters for key in optimizer.state.get(parameter, {})}
    if kept and not kept & set(_KEYS):
        raise ValueError(
            f"expected a base optimizer that keeps a first moment ({' or '.join(_KEYS)}) to climb along, got "
            f"{type(optimizer).__name__}, which keeps {', '.join(sorted(kept))}; use SGD with momentum or one of the "
            "Adam family, for example"
        )


def first_moment(optimizer: Optimizer) -> list[Tensor]:
    """The first moments: SGD's `momentum_buffer`, the Adam family's raw `exp_avg`; zeros where there is none yet.

    A list in the order of the parameters in `param_groups`, each of its parameter's shape: the optimizer's own
    tensors, not copies. A sharpness-aware optimizer answers with its base's.
    """
    base = getattr(optimizer, "base", optimizer)
    parameters = [parameter for group in base.param_groups for parameter in group["params"]]
    moments = [moment(base, parameter) for parameter in parameters]
    return [
        torch.zeros_like(parameter) if found is None else found
        for parameter, found in zip(parameters, moments, strict=True)
    ]

"""A running average of the gradients at the clean weights, one tensor a parameter, kept in the optimizer's state."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.core import norms
from optimizers.core.norms import Gradient, finite_or_zero, shards
from optimizers.core.seen import Seen

_KEY = "gradient_average"


def averages(optimizer: Seen, parameters: list[Tensor]) -> list[Tensor]:
    """The averages m of these parameters, zero before the first gradient."""
    known = [optimizer.state[parameter].get(_KEY) for parameter in parameters]
    return [
        torch.zeros_like(local) if average is None else average
        for average, local in zip(known, shards(parameters), strict=True)
    ]


def update(optimizer: Seen, clean: Gradient, weight: float | Tensor, *, from_zero: bool) -> set[Tensor]:
    """m ← m + weight (g − m); returns the parameters seen for the first time, whose m is 0 before or, else, becomes g.

    A gradient that is not finite is left out.
    """
    finite = clean.norm.isfinite()
    gradients = finite_or_zero(clean.tensors, finite)
    new = {parameter for parameter in clean.parameters if _KEY not in optimizer.state[parameter]}
    for parameter, gradient in zip(clean.parameters, gradients, strict=True):
        if parameter in new:
            optimizer.state[parameter][_KEY] = torch.zeros_like(gradient) if from_zero else gradient.clone()
    moments = averages(optimizer, clean.parameters)
    if isinstance(weight, Tensor) or not norms.on_host(finite):
        step = torch.where(finite, weight, 0.0)
        for moment, gradient in zip(moments, gradients, strict=True):
            moment.lerp_(gradient, step.to(device=moment.device, dtype=moment.dtype))
    elif finite and moments:
        torch._foreach_lerp_(moments, gradients, weight)
    return new

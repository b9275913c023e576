"""Running averages of the gradients at the clean weights, one tensor a parameter, kept in the optimizer's state.

They are float32 at least: at λ = 0.99 a gradient that is a fifth away moves the average by less than half of bfloat16's
last place, and it would stay where it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.core import norms
from optimizers.core.norms import Gradient, finite_or_zero, shards, widened
from optimizers.core.seen import Seen

_KEY = "gradient_average"


def averages(optimizer: Seen, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The averages m of these parameters, zero before the first gradient."""
    known = [optimizer.state[parameter].get(_KEY) for parameter in parameters]
    return [
        torch.zeros_like(local, dtype=norms.accumulator(local.dtype)) if average is None else widened(average)
        for average, local in zip(known, shards(parameters), strict=True)
    ]


def update(optimizer: Seen, clean: Gradient, weight: float | Tensor, *, from_zero: bool) -> set[Tensor]:
    """m ← m + weight (g − m); returns the parameters seen for the first time, whose m is 0 before or, else, becomes g.

    A gradient that is not finite is left out.
    """
    finite = clean.norm.isfinite()
    return _follow(optimizer, _KEY, clean.parameters, finite_or_zero(clean.tensors, finite), finite, weight, from_zero)


def update_squares(optimizer: Seen, clean: Gradient, weight: float, *, key: str) -> list[Tensor]:
    """F ← F + weight (g² − F), from F = g², in the state under `key`; the diagonal of a Fisher matrix. Returns F."""
    finite = clean.norm.isfinite()
    squares = [widened(g).square() for g in finite_or_zero(clean.tensors, finite)]
    _follow(optimizer, key, clean.parameters, squares, finite, weight, from_zero=False)
    return [optimizer.state[parameter][key] for parameter in clean.parameters]


def _follow(
    optimizer: Seen,
    key: str,
    parameters: list[Tensor],
    values: list[Tensor],
    finite: Tensor,
    weight: float | Tensor,
    from_zero: bool,
) -> set[Tensor]:
    values = [widened(value) for value in values]
    new = {parameter for parameter in parameters if key not in optimizer.state[parameter]}
    for parameter, value in zip(parameters, values, strict=True):
        state = optimizer.state[parameter]
        if parameter in new:
            state[key] = torch.zeros_like(value) if from_zero else value.clone()
        state[key] = widened(state[key])  # files of older versions hold it in half precision
    means = [optimizer.state[parameter][key] for parameter in parameters]
    if isinstance(weight, Tensor) or not norms.on_host(finite):
        step = torch.where(finite, weight, 0.0)
        for mean, value in zip(means, values, strict=True):
            mean.lerp_(value, step.to(mean))
    elif finite and means:
        torch._foreach_lerp_(means, values, weight)
    return new

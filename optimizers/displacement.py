r"""Moving parameters to w + ε and back: a copy of w is kept and copied back, so that w returns bit for bit.

Adding ε and subtracting it again would leave a rounding error on every step (in bfloat16 a visible one), and, after one
infinite gradient, a NaN for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.directions import Ascent
from optimizers.norms import finite_or_zero, shards


class Displacement:
    """Parameters that are away from their clean values; `restore` brings them home."""

    def __init__(self, parameters: Sequence[Tensor], clean: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.clean = list(clean)

    def restore(self) -> None:
        """Copy the clean values back, and give the copy's memory back."""
        if self.clean:
            torch._foreach_copy_(shards(self.parameters), self.clean)
            self.clean = []


def displace(ascent: Ascent, radii: Sequence[float]) -> tuple[Displacement, Tensor | None]:
    """Add ε = radius · vector / scale to each parameter.

    `radii` has one signed number for each parameter. A scale of 0 gives ε = 0. Where a scale is not finite nothing
    moves; the second result counts that on the device (a 0-dimensional bool tensor; None for no parameters).
    """
    if not ascent.parameters:
        return Displacement([], []), None
    parameters, vectors = shards(ascent.parameters), ascent.vectors
    factors, finite = _factors(ascent, radii)
    displacement = Displacement(ascent.parameters, [parameter.clone() for parameter in parameters])
    try:
        vectors = finite_or_zero(vectors, finite, in_place=ascent.disposable)
        for parameter, vector, factor in zip(parameters, vectors, factors, strict=True):
            parameter.addcmul_(vector, factor)
    except BaseException:
        displacement.restore()
        raise
    return displacement, ~finite


def perturbation(ascent: Ascent, radii: Sequence[float]) -> list[Tensor]:
    """ε itself, as new tensors, beside `ascent.parameters`."""
    if not ascent.parameters:
        return []
    factors, finite = _factors(ascent, radii)
    vectors = finite_or_zero(ascent.vectors, finite)
    return [v * f for v, f in zip(vectors, factors, strict=True)]


def _factors(ascent: Ascent, radii: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """One factor beside each vector, 0 where the scale is 0 or not finite; and whether all scales are finite."""
    assert ascent.scale is not None
    scales = ascent.scale if isinstance(ascent.scale, list) else [ascent.scale] * len(radii)
    different = {id(scale): scale for scale in scales}
    finite = torch.stack([scale.isfinite() for scale in different.values()]).all()
    known: dict[tuple[int, float, torch.device, torch.dtype], Tensor] = {}
    factors = []
    for scale, radius, vector in zip(scales, radii, ascent.vectors, strict=True):
        key = id(scale), radius, vector.device, vector.dtype
        if key not in known:
            factor = torch.where(finite & (scale > 0), ascent.fraction * radius / scale, 0.0)
            known[key] = factor.to(device=vector.device, dtype=vector.dtype)
        factors.append(known[key])
    return factors, finite

r"""Moving parameters to w + ε and back: a copy of w is kept and copied back, so that w returns bit for bit.

Adding ε and subtracting it again would leave a rounding error on every step (in bfloat16 a visible one), and, after one
infinite gradient, a NaN for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimizers.directions import Ascent
from optimizers.gradients import Gradient
from optimizers.norms import accumulator, add_scaled, finite_or_zero, shards, widened

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


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


def displace(optimizer: SharpnessAware, gradient: Gradient) -> Displacement:
    """Add ε = radius · vector / scale to each parameter; 0 for a scale of 0.

    Where a scale is not finite nothing moves, and the optimizer counts that, on the device.
    """
    ascent = optimizer.metric(optimizer, optimizer.direction(optimizer, gradient))
    if not ascent.parameters:
        return Displacement([], [])
    parameters, vectors = shards(ascent.parameters), ascent.vectors
    factors, finite = _factors(ascent, _radii(optimizer, ascent))
    optimizer.count_skipped_ascent((~finite).int())
    displacement = Displacement(ascent.parameters, [parameter.clone() for parameter in parameters])
    try:
        vectors = finite_or_zero(vectors, finite, in_place=ascent.disposable)
        for parameter, vector, factor in zip(parameters, vectors, factors, strict=True):
            add_scaled(parameter, vector, factor)
    except BaseException:
        displacement.restore()
        raise
    return displacement


def perturbation(optimizer: SharpnessAware) -> list[Tensor]:
    """ε itself, from what `.grad` holds, as new tensors: one for each parameter, zero where it would not move."""
    ascent = optimizer.metric(optimizer, optimizer.direction(optimizer, optimizer._gradient()))
    moved: dict[Tensor, Tensor] = {}
    if ascent.parameters:
        factors, finite = _factors(ascent, _radii(optimizer, ascent))
        vectors = finite_or_zero(ascent.vectors, finite)
        moved = {p: (widened(v) * f).to(p.dtype) for p, v, f in zip(ascent.parameters, vectors, factors, strict=True)}
    parameters = optimizer._parameters
    return [
        moved[p] if p in moved else torch.zeros_like(w) for p, w in zip(parameters, shards(parameters), strict=True)
    ]


def _radii(optimizer: SharpnessAware, ascent: Ascent) -> list[float]:
    """ρ of each parameter, with the direction's sign."""
    of_groups = [optimizer.signed_radius(group) for group in optimizer.param_groups]
    if len(set(of_groups)) == 1:
        return of_groups[:1] * len(ascent.parameters)
    radius = optimizer.radius
    return [radius[parameter] for parameter in ascent.parameters]


def _factors(ascent: Ascent, radii: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """One factor beside each vector, 0 where the scale is 0 or not finite; and whether all scales are finite.

    Factors are float32 at least: ρ/‖g‖ of a small gradient is more than float16 can hold.
    """
    assert ascent.scale is not None
    scales = ascent.scale if isinstance(ascent.scale, list) else [ascent.scale] * len(radii)
    different = {id(scale): scale for scale in scales}
    finite = torch.stack([scale.isfinite() for scale in different.values()]).all()
    known: dict[tuple[int, float, torch.device, torch.dtype], Tensor] = {}
    factors = []
    for scale, radius, vector in zip(scales, radii, ascent.vectors, strict=True):
        key = id(scale), radius, vector.device, accumulator(vector.dtype)
        if key not in known:
            factor = torch.where(finite & (scale > 0), ascent.fraction * radius / widened(scale), 0.0)
            factor = factor.nan_to_num(posinf=0.0, neginf=0.0)  # a length too small to divide by is none
            known[key] = factor.to(device=vector.device, dtype=accumulator(vector.dtype))
        factors.append(known[key])
    return factors, finite

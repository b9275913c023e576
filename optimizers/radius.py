"""Which radii make sense: ρ is finite, not negative unless the method says what that means, and near the published ones."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware

_FAR = 5.0  # warn at a fifth of the smallest and five times the largest published radius


def check_radius(optimizer: SharpnessAware) -> None:
    """Raise `ValueError` for a radius that means nothing, in any parameter group."""
    for index, group in enumerate(optimizer.param_groups):
        rho = group["rho"]
        if not math.isfinite(rho):
            raise ValueError(f"expected a finite rho, got {rho} in parameter group {index}")
        if rho < 0 and not optimizer.direction.either_sign:
            raise ValueError(
                f"expected rho ≥ 0, got {rho} in parameter group {index}: {type(optimizer).__name__} climbs, and gives "
                "a negative radius no meaning (methods that climb along the momentum do)"
            )


def warn_about_radius(optimizer: SharpnessAware) -> None:
    """Warn if a radius is far from those that the paper found to work."""
    if optimizer.rho_range is None:
        return
    low, high = optimizer.rho_range
    for group in optimizer.param_groups:
        rho = abs(group["rho"])
        if rho and not low / _FAR <= rho <= high * _FAR:
            warnings.warn(
                f"rho = {group['rho']} is far from the {low} to {high} that {type(optimizer).__name__}'s paper uses",
                UserWarning,
                stacklevel=4,
            )
            return

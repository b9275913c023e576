"""Which radii make sense: ρ is finite, not negative unless the method says what that means, and near the published ones."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from optimizers.core.passes import Whole


class Bounded(Whole, Protocol):
    """A sharpness-aware optimizer whose radii are to be checked."""

    rho_range: ClassVar[tuple[float, float] | None]


_FAR = 5.0  # warn at a fifth of the smallest and five times the largest published radius


def check_radius(optimizer: Bounded) -> None:
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


class RhoSchedule(ABC):
    """A radius that changes during training, as a function of a parameter group."""

    @abstractmethod
    def __call__(self, group: dict[str, Any]) -> float:
        """The radius of a parameter group now."""


class FollowLearningRate(RhoSchedule):
    """ρ = ρ_min + (ρ_max − ρ_min)(η − η_min)/(η_max − η_min): a radius tied to the learning rate η of its group.

    η_max is the group's `initial_lr` (set by torch's schedulers), else its first learning rate seen. Meant for SAM-like
    methods (GSAM). A momentum perturbation tied to η approaches Nesterov's method instead of flat minima: keep MSAM's
    ρ constant.
    """

    def __init__(self, rho_max: float, rho_min: float = 0.0, *, lr_min: float = 0.0) -> None:
        self.rho_max = rho_max
        self.rho_min = rho_min
        self.lr_min = lr_min

    def __call__(self, group: dict[str, Any]) -> float:
        """The radius of a parameter group now."""
        lr_max = group.setdefault("initial_lr", group["lr"])
        if lr_max <= self.lr_min:
            return self.rho_max
        return self.rho_min + (self.rho_max - self.rho_min) * (group["lr"] - self.lr_min) / (lr_max - self.lr_min)


def warn_about_radius(optimizer: Bounded) -> None:
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

"""What the base optimizer steps along: the gradient at w+ε, or a mixture of it, the one at w, and what past ones left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from optimizers.axis import Axis
from optimizers.directions import CleanGradient

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


class Reuse(Axis, ABC):
    """The fourth choice: the descent direction. Both methods change `.grad` in place. It needs both gradients."""

    @abstractmethod
    def after_ascent(self, optimizer: SharpnessAware, clean: CleanGradient) -> None:
        """`clean` holds g, `.grad` holds the gradient g_s at w+ε; leave the descent direction in `.grad`."""

    def without_ascent(self, optimizer: SharpnessAware, clean: CleanGradient) -> None:
        """`.grad` holds g, as does `clean`; leave the descent direction in `.grad`."""

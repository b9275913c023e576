"""When to climb: a step without ascent costs one gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from optimizers.axis import Axis
from optimizers.directions import CleanGradient

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


class Policy(Axis, ABC):
    """The third choice: on which steps to climb."""

    reads_gradient: ClassVar[bool] = False
    """Whether it decides from the gradient at w: one number a step is then read by the host."""

    @abstractmethod
    def ascend(self, optimizer: SharpnessAware, clean: CleanGradient) -> bool:
        """Whether to climb on this step; called once a step. `clean` is empty unless `reads_gradient`."""


class Always(Policy):
    """On every step."""

    def ascend(self, optimizer: SharpnessAware, clean: CleanGradient) -> bool:
        """Yes."""
        return True

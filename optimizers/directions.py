r"""Where to climb: the direction d of the perturbation ε = ρ d/‖d‖, before any metric bends it.

A direction that needs the gradient at the clean weights w costs two gradients a step; one that is known beforehand
(momentum, noise, the previous gradient) costs one. A paper's direction lives in the paper's file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from optimizers.axis import Axis
from optimizers.gradients import Gradient

if TYPE_CHECKING:
    from optimizers.displacement import Displacement
    from optimizers.sharpness_aware import SharpnessAware


@dataclass
class Ascent:
    """A direction in weight space: `parameters` and, beside each, its part of d.

    `scale` is the norm that ρ is divided by (one for all, or one for each tensor): ‖d‖ unless a metric says otherwise.
    `fraction` of ρ is used. `disposable` says that the vectors may be overwritten: nobody needs them afterwards.
    """

    parameters: list[Tensor]
    vectors: list[Tensor]
    scale: Tensor | list[Tensor] | None = field(default=None)
    disposable: bool = False
    fraction: float = 1.0


class Direction(Axis, ABC):
    """The first choice: where to climb."""

    needs_gradient: ClassVar[bool] = True
    """Whether d is made from the gradient at w, at the price of a second gradient."""
    sign: ClassVar[float] = 1.0
    """ε = sign · ρ d/‖d‖."""
    either_sign: ClassVar[bool] = False
    """Whether ρ < 0 means something."""
    turns: ClassVar[bool] = True
    """Whether `maximize=True` turns it around: gradients then point where it gets better; momenta are turned already."""

    def observe(self, optimizer: SharpnessAware, clean: Gradient) -> None:
        """See the gradient at w of every step, also of steps that do not climb, before `__call__`."""

    def leave(self, optimizer: SharpnessAware, displacement: Displacement) -> None:
        """See the gradient in `.grad` while the weights are still at w + ε, in a step of one gradient."""

    def conclude(self, optimizer: SharpnessAware) -> None:
        """See the gradient of the descent in `.grad` before the base takes its step."""

    def refine(self, optimizer: SharpnessAware, displacement: Displacement, evaluate: Callable[[], object]) -> None:
        """Move on from the first w + ε: call `evaluate` for a gradient there (into `.grad`) and change the weights."""

    @abstractmethod
    def __call__(self, optimizer: SharpnessAware, clean: Gradient) -> Ascent:
        """The direction now. `clean` is empty for a direction that does not need it. Changes no state."""


class Steepest(Direction):
    """d = g, the gradient at w (Foret et al. 2021, eq. 2): first-order steepest ascent."""

    def __call__(self, optimizer: SharpnessAware, clean: Gradient) -> Ascent:
        """The gradient itself."""
        return Ascent(clean.parameters, clean.tensors, clean.norm, disposable=clean.disposable)


class Still(Direction):
    """No perturbation at all: the base optimizer behind the same interface."""

    needs_gradient = False

    def __call__(self, optimizer: SharpnessAware, clean: Gradient) -> Ascent:
        """Nothing."""
        return Ascent([], [])

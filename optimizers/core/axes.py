r"""The four choices of a method: where to climb, what counts as far, when to climb, and what to step along.

    ε = ρ · vector/scale,   (vector, scale) = metric(direction)

Each is given the `Step` at the times that its hooks are named after. `observe` and `conclude` come in every step, on every
choice; a paper's own choice lives in the paper's file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from optimizers.core import norms
from optimizers.core.norms import Gradient
from optimizers.core.seen import Seen
from optimizers.core.step import Ascent, Step


class Axis:
    """One choice (direction, metric, policy or reuse) of a `SharpnessAware` optimizer.

    `counters` names the attributes that change during training; they travel in the optimizer's `state_dict`. A hook gives
    their next values to `step.later(self)`, which takes them over when the step is done: one that raises moves none.
    Tensors that belong to a parameter go into `optimizer.state[parameter]` instead. Hyperparameters are plain attributes,
    except those that may differ between parameter groups: these are in `group_defaults` and live in `param_groups`.
    """

    counters: ClassVar[tuple[str, ...]] = ()
    differentiates_twice: ClassVar[bool] = False
    """Whether it takes products with the Hessian: then closures must be a `BatchClosure`, and parameters whole."""
    learns_from_gradient: ClassVar[bool] = False
    """Whether `observe` learns what the choice needs: then the direction must take the gradient at w."""

    def bind(self, optimizer: Seen) -> None:
        """Belong to `optimizer`; a second owner is refused, because the two would share their counters."""
        if getattr(self, "_bound", False) and self.counters:
            raise ValueError(
                f"{type(self).__name__} already belongs to another optimizer, and its counters cannot serve two; "
                "make a new one"
            )
        self._bound = True

    def observe(self, step: Step) -> None:
        """See the gradient at w (`step.clean`) of every step that takes one, also of steps that do not climb."""

    def conclude(self, step: Step) -> None:
        """See the descent direction in `.grad` before the base takes its step."""

    @property
    def group_defaults(self) -> dict[str, Any]:
        """Hyperparameters that each parameter group holds, with their defaults."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The counters: numbers, lists of numbers and tensors."""
        return {name: _copy(getattr(self, name)) for name in self.counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the counters from `state`; anything missing or unknown is refused."""
        if set(state) != set(self.counters):
            raise ValueError(
                f"expected the counters {sorted(self.counters)} of {type(self).__name__}, got {sorted(state)}; "
                "was this saved by another version or method?"
            )
        for name in self.counters:
            setattr(self, name, _copy(state[name]))

    def remembered(self) -> dict[str, Any]:
        """The counters as they are, not copied to the host and not cloned: axes replace tensors, they do not change them."""
        return {name: list(v) if isinstance(v := getattr(self, name), list) else v for name in self.counters}


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else value


class Direction(Axis, ABC):
    """The first choice: where to climb.

    A direction that needs the gradient at the clean weights costs two gradients a step; one that is known beforehand
    (momentum, noise, the previous gradient) costs one.
    """

    needs_gradient: ClassVar[bool] = True
    """Whether d is made from the gradient at w, at the price of a second gradient."""
    sign: ClassVar[float] = 1.0
    """ε = sign · ρ d/‖d‖."""
    either_sign: ClassVar[bool] = False
    """Whether ρ < 0 means something."""
    turns: ClassVar[bool] = True
    """Whether `maximize=True` turns it around: gradients then point where it gets better; momenta are turned already."""

    def before_gradient(self, step: Step) -> Gradient | None:
        """From w to where a step that climbs takes its first gradient, `step.clean`, if that is elsewhere; no state changes.

        Not asked where a policy has to see the gradient at w before it decides.
        """
        return None

    @abstractmethod
    def __call__(self, step: Step) -> Ascent:
        """The direction now. `step.clean` is empty for a direction that does not need it. Changes no state."""

    def at_perturbed(self, step: Step, evaluate: Callable[[], object]) -> None:
        """At the first w + ε of a step that looked at w: `evaluate` for a gradient there, and move the weights on."""

    def before_return(self, step: Step) -> None:
        """See the gradient in `.grad` while the weights are still at w + ε, in a step of one gradient."""


class Steepest(Direction):
    """d = g, the gradient at w (Foret et al. 2021, eq. 2): first-order steepest ascent."""

    def __call__(self, step: Step) -> Ascent:
        """The gradient itself."""
        return Ascent(step.clean.parameters, step.clean.tensors, step.clean.norm, disposable=step.clean.disposable)


class Still(Direction):
    """No perturbation at all: the base optimizer behind the same interface."""

    needs_gradient = False

    def __call__(self, step: Step) -> Ascent:
        """Nothing."""
        return Ascent([], [])


class Metric(Axis, ABC):
    """The second choice: what counts as far."""

    @abstractmethod
    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """`ascent` in this geometry, with its `scale`. Changes no state."""


class Euclidean(Metric):
    """One global L2 ball over every tensor of every group: ε = ρ d/‖d‖."""

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """The direction as it is, over its global norm."""
        if ascent.scale is None:
            ascent.scale = norms.norm(ascent.vectors, ascent.parameters)
        return ascent


class Unnormalized(Metric):
    """No ball at all: ε = ρ d, as long as the direction is. With MSAM and ρ = ημ this is Nesterov's method."""

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """The direction as it is, over 1; over its length where that is not finite, which nobody climbs along."""
        if ascent.vectors:
            length = norms.norm(ascent.vectors, ascent.parameters) if ascent.scale is None else ascent.scale
            assert isinstance(length, torch.Tensor)
            ascent.scale = torch.where(length.isfinite(), 1.0, length)
        return ascent


class PerTensor(Metric):
    """A ball for each tensor, of radius ρ √(n_i/n): the global radius shared out by size, so that no layer takes it all.

    ‖ε‖ = ρ still, if every tensor has a direction.
    """

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """The direction as it is, each tensor over √(n/n_i) of its own norm."""
        sizes = [parameter.numel() for parameter in ascent.parameters]
        ascent.scale = [
            norms.norm([vector], [parameter]) * math.sqrt(sum(sizes) / size)
            for parameter, vector, size in zip(ascent.parameters, ascent.vectors, sizes, strict=True)
        ]
        return ascent


class Policy(Axis, ABC):
    """The third choice: on which steps to climb. A step without ascent costs one gradient."""

    reads_gradient: ClassVar[bool] = False
    """Whether it decides from the gradient at w: one number a step is then read by the host."""
    reads_both: ClassVar[bool] = False
    """Whether it learns from the gradients at w and at w + ε together."""

    @abstractmethod
    def decides(self, step: Step) -> bool:
        """Whether to climb on this step. Changes no state. `step.clean` is empty unless `reads_gradient`."""

    def after_ascent(self, step: Step) -> None:
        """See both gradients of a step that climbed, if `reads_both`."""


class Always(Policy):
    """On every step."""

    def decides(self, step: Step) -> bool:
        """Yes."""
        return True


class Reuse(Axis, ABC):
    """The fourth choice: the descent direction. It changes `.grad` in place. It needs both gradients."""

    def before_ascent(self, step: Step) -> None:
        """Give back memory that `after_ascent` will fill anew."""

    @abstractmethod
    def after_ascent(self, step: Step) -> None:
        """`step.pairs` has g and g_s; `.grad` holds g_s; leave the descent direction in `.grad`."""

    def without_ascent(self, step: Step) -> None:
        """`.grad` holds g, as does `step.clean`; leave the descent direction in `.grad`."""


def in_place(clean: Gradient) -> list[Tensor]:
    """The tensors of g, such that changing them changes `.grad`: a sparse gradient becomes a dense one."""
    for parameter, tensor in zip(clean.parameters, clean.tensors, strict=True):
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            parameter.grad = tensor
    return clean.tensors

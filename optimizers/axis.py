"""What the four choices of a sharpness-aware step have in common: a name, counters that are saved, one owner."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


class Axis:
    """One choice (direction, metric, policy or reuse) of a `SharpnessAware` optimizer.

    `counters` names the attributes that change during training; they travel in the optimizer's `state_dict`. Tensors
    that belong to a parameter go into `optimizer.state[parameter]` instead. Hyperparameters are plain attributes, except
    those that may differ between parameter groups: these are in `group_defaults` and live in `param_groups`.
    """

    counters: ClassVar[tuple[str, ...]] = ()

    def bind(self, optimizer: SharpnessAware) -> None:
        """Belong to `optimizer`; a second owner is refused, because the two would share their counters."""
        if getattr(self, "_bound", False) and self.counters:
            raise ValueError(
                f"{type(self).__name__} already belongs to another optimizer, and its counters cannot serve two; "
                "make a new one"
            )
        self._bound = True

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


_Options = ParamSpec("_Options")
_Loss = TypeVar("_Loss")


def advancing_nothing_if_raised(step: Callable[_Options, _Loss]) -> Callable[_Options, _Loss]:
    """A step that fails (out of memory, an interrupt) leaves every counter where it was: it may be taken again.

    So policies that count steps, toss coins or follow averages of norms do it once for each step that was taken.
    """

    @functools.wraps(step)
    def guarded(*args: _Options.args, **options: _Options.kwargs) -> _Loss:
        optimizer: Any = args[0]
        before = {axis: axis.remembered() for axis in optimizer.axes.values() if axis.counters}
        climbs = optimizer._side.climbs
        try:
            return step(*args, **options)
        except BaseException:
            for axis, counters in before.items():
                for name, value in counters.items():
                    setattr(axis, name, value)
            optimizer._side.climbs = climbs
            raise

    return guarded


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else value

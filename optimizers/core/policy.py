"""When to climb: a step without ascent costs one gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch

from optimizers.core.axis import Axis
from optimizers.core.gradients import BothGradients, Gradient

if TYPE_CHECKING:
    from optimizers.core.sharpness_aware import SharpnessAware


class Policy(Axis, ABC):
    """The third choice: on which steps to climb."""

    reads_gradient: ClassVar[bool] = False
    """Whether it decides from the gradient at w: one number a step is then read by the host."""
    reads_both: ClassVar[bool] = False
    """Whether it learns from the gradients at w and at w + ε together."""

    @abstractmethod
    def ascend(self, optimizer: SharpnessAware, clean: Gradient) -> bool:
        """Whether to climb on this step; called once a step. `clean` is empty unless `reads_gradient`."""

    def learn(self, optimizer: SharpnessAware, both: BothGradients) -> None:
        """See both gradients of a step that climbed, if `reads_both`."""


class Always(Policy):
    """On every step."""

    def ascend(self, optimizer: SharpnessAware, clean: Gradient) -> bool:
        """Yes."""
        return True


class EveryK(Policy):
    """On the first of every k steps."""

    counters = ("steps",)

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"expected k ≥ 1, got {k}")
        self.k = k
        self.steps = 0

    def ascend(self, optimizer: SharpnessAware, clean: Gradient) -> bool:
        """Whether the step's number is a multiple of k."""
        self.steps += 1
        return (self.steps - 1) % self.k == 0


class Between(Policy):
    """From step `start` on, until before step `stop` (counted from 0; None for never): late SAM, or warm-up without."""

    counters = ("steps",)

    def __init__(self, *, start: int = 0, stop: int | None = None) -> None:
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"expected 0 ≤ start < stop, got start={start}, stop={stop}")
        self.start = start
        self.stop = stop
        self.steps = 0

    def ascend(self, optimizer: SharpnessAware, clean: Gradient) -> bool:
        """Whether the step lies in between."""
        self.steps += 1
        return self.start < self.steps and (self.stop is None or self.steps <= self.stop)


class Bernoulli(Policy):
    """With probability p, a number or a function of the step (counted from 0), independently on each step."""

    counters = ("steps", "rng")

    def __init__(self, p: float | Callable[[int], float], *, seed: int = 0) -> None:
        if not callable(p) and not 0 <= p <= 1:
            raise ValueError(f"expected p in [0, 1], got {p}")
        self.p = p
        self.steps = 0
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def rng(self) -> torch.Tensor:
        """The state of the generator, which lives on the host: deciding waits for no device."""
        return self._generator.get_state()

    @rng.setter
    def rng(self, state: torch.Tensor) -> None:
        self._generator.set_state(state.cpu())

    def ascend(self, optimizer: SharpnessAware, clean: Gradient) -> bool:
        """Toss."""
        p = self.p(self.steps) if callable(self.p) else self.p
        self.steps += 1
        return float(torch.rand((), generator=self._generator)) < p

"""When to climb, by the clock or by the toss of a coin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch

from optimizers.core.axes import Policy
from optimizers.core.draws import peeked
from optimizers.core.step import Step
from optimizers.ground.signatures import Seed, Steps, at_least, between


class EveryK(Policy):
    """On the first of every k steps."""

    counters = ("steps",)

    def __init__(self, k: Annotated[int, at_least(1)]) -> None:
        if k < 1:
            raise ValueError(f"expected k ≥ 1, got {k}")
        self.k = k
        self.steps = 0

    def decides(self, step: Step) -> bool:
        """Whether the step's number is a multiple of k."""
        step.later(self)["steps"] = self.steps + 1
        return self.steps % self.k == 0


class Between(Policy):
    """From step `start` on, until before step `stop` (counted from 0; None for never): late SAM, or warm-up without."""

    counters = ("steps",)

    def __init__(
        self,
        *,
        start: Annotated[int, at_least(0), Steps()] = 0,
        stop: Annotated[int, at_least(1), Steps()] | None = None,
    ) -> None:
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError(f"expected 0 ≤ start < stop, got start={start}, stop={stop}")
        self.start = start
        self.stop = stop
        self.steps = 0

    def decides(self, step: Step) -> bool:
        """Whether the step lies in between."""
        step.later(self)["steps"] = self.steps + 1
        return self.start <= self.steps and (self.stop is None or self.steps < self.stop)


class Bernoulli(Policy):
    """With probability p, a number or a function of the step (counted from 0), independently on each step."""

    counters = ("steps", "rng")

    def __init__(self, p: Annotated[float, between(0, 1)] | Callable[[int], float], *, seed: Seed = 0) -> None:
        if not callable(p) and not 0 <= p <= 1:
            raise ValueError(f"expected p in [0, 1], got {p}")
        self.p = p
        self.steps = 0
        self.rng = torch.Generator().manual_seed(seed).get_state()
        """The state of the generator, on the host: deciding waits for no device."""

    def decides(self, step: Step) -> bool:
        """Toss."""
        toss, rng = peeked(self.rng)
        step.later(self).update(steps=self.steps + 1, rng=rng)
        return toss < (self.p(self.steps) if callable(self.p) else self.p)

"""Which checkpoints a run keeps. A checkpoint stays if any rule wants it; the first and the last always stay.

Without any rule all stay. What is dropped loses its weights and state, never its metrics: `Run.thin` keeps those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from optimizers.ground.signatures import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Rules; 0 or an empty name switches a rule off.

    Args:
        every: Keep steps divisible by this.
        last: Keep this many of the newest.
        best: Keep the checkpoint at which this metric was best (the earliest of equals); where none has it, all stay.
        best_is: Whether the lowest or the highest value is the best.
        log_spaced: Keep this many per factor of ten in the step: the first in each interval of log₁₀(step), as studies
            of the landscape along training want them.
    """

    every: int = 0
    last: int = 0
    best: str = ""
    best_is: Literal["lowest", "highest"] = "lowest"
    log_spaced: int = 0

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name in ("every", "last", "log_spaced"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}: expected a whole number, 0 (off) or more, got {value!r}")
        if self.best_is not in ("lowest", "highest"):
            raise ValueError(f"best_is: expected lowest or highest, got {self.best_is!r}")

    def check(self, measured: Sequence[str]) -> None:
        """Raise ValueError where `best` is none of the metrics that are `measured` at checkpoints."""
        if self.best and self.best not in measured:
            raise ValueError(f"best: no metric is called {did_you_mean([self.best], measured)}")

    def kept(self, steps: Sequence[int], value: Callable[[str, int], float | None]) -> set[int]:
        """Of the checkpoints at `steps` (rising), those that stay; `value(metric, step)` is None where there is none."""
        if not steps or not (self.every or self.last or self.best or self.log_spaced):
            return set(steps)
        keep = {steps[0], steps[-1], *steps[len(steps) - self.last :]}
        if self.every:
            keep |= {step for step in steps if step % self.every == 0}
        if self.log_spaced:
            first: dict[int, int] = {}
            for step in steps:
                if step > 0:
                    first.setdefault(math.floor(self.log_spaced * math.log10(step) + 1e-9), step)
            keep |= set(first.values())
        if self.best:
            sign = 1 if self.best_is == "lowest" else -1
            scored = [(sign * v, step) for step in steps if (v := value(self.best, step)) is not None and v == v]
            # where nobody can say yet which is the best, none is dropped
            keep |= {min(scored)[1]} if scored else set(steps)
        return keep

"""A table of numbers over arms and seeds, what a statistic finds in it, and the statistics by name.

    @statistic("difference", arms=(2, 2))
    def difference(table: Table) -> Finding: ...

Seeds are pairs: an arm's column of a seed shares data, initial weights and batch order with the other arms' columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analyses.studies.holm import compare


@dataclass(frozen=True)
class Table:
    """Values (arms, seeds), the numbers or second values that belong to the arms, and what the claim says of them."""

    values: np.ndarray
    direction: str = "less"
    levels: np.ndarray | None = None  # (arms,)
    against: np.ndarray | None = None  # (arms, seeds)
    margin: float = 0.0


@dataclass(frozen=True)
class Finding:
    """An effect, the half-width of its own 95 % interval, the two-sided p of no effect, and whether it is the claim's side."""

    effect: float
    half_width: float
    p: float
    supports: bool


@dataclass(frozen=True)
class Statistic:
    """How a claim is decided, and what it must say for it."""

    name: str
    find: Callable[[Table], Finding]
    fewest: int
    most: int | None
    directions: tuple[str, ...]
    numbers: str  # which of levels, against, "either" or "" belong to the arms

    def check(
        self, arms: int, direction: str, levels: Sequence[float] | None, against: bool, min_effect: float
    ) -> None:
        """Refuse a claim of which this cannot be asked."""
        if arms < self.fewest or (self.most is not None and arms > self.most):
            wanted = f"{self.fewest}" if self.most == self.fewest else f"at least {self.fewest}"
            raise ValueError(f"{self.name}: expected {wanted} arms, got {arms}")
        if direction not in self.directions:
            raise ValueError(f"expected the direction {' or '.join(self.directions)}, got {direction!r}")
        given = {"levels": levels is not None, "against": against}
        right = {
            "": not any(given.values()),
            "levels": given["levels"] and not against,
            "either": given["levels"] != against,
        }
        if not right[self.numbers]:
            said = {"": "neither levels nor against", "levels": "levels", "either": "either levels or against"}
            got = " and ".join(name for name, there in given.items() if there) or "neither"
            raise ValueError(f"{self.name}: expected {said[self.numbers]}, got {got}")
        if levels is not None and (len(levels) != arms or len(set(levels)) < len(levels)):
            raise ValueError(f"{self.name}: expected a different level for each of {arms} arms, got {list(levels)}")
        if self.directions == ("equal",) and not min_effect > 0:
            raise ValueError(f"{self.name}: expected min_effect, the largest difference that is none, above 0")


_STATISTICS: dict[str, Statistic] = {}


def statistic(
    name: str,
    *,
    arms: tuple[int, int | None],
    directions: tuple[str, ...] = ("less", "greater"),
    numbers: str = "",
) -> Callable[[Callable[[Table], Finding]], Callable[[Table], Finding]]:
    """Enter a function under the name by which a claim asks for it."""

    def enter(find: Callable[[Table], Finding]) -> Callable[[Table], Finding]:
        _STATISTICS[name] = Statistic(name, find, *arms, directions, numbers)
        return find

    return enter


def by_name(name: str) -> Statistic:
    """The statistic called `name`."""
    if name not in _STATISTICS:
        raise ValueError(f"unknown statistic {name!r}: expected one of {', '.join(sorted(_STATISTICS))}")
    return _STATISTICS[name]


def of_each_seed(numbers: np.ndarray, direction: str) -> Finding:
    """Student's t-test of one number for each seed against zero."""
    found = compare(numbers)
    return Finding(found.difference, found.half_width, found.p, (found.difference < 0) == (direction == "less"))


def sides(differences: np.ndarray) -> tuple[float, float]:
    """The one-sided p of Student's t-test that the mean is not below zero, and that it is not above."""
    found = compare(differences)
    beyond = found.p / 2 if found.difference else 0.5
    return (beyond, 1 - beyond) if found.difference < 0 else (1 - beyond, beyond)

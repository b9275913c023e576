"""A scale is a declared transformation of a paper's protocol: what is made smaller is said, and the report prints it.

[scales.tiny]
about = "five epochs on digits show the sign, not the size"
seeds = [0, 1, 2]
experiment = {epochs = 5}       of all arms
arms.sam = {rho = 0.2}          of one, after what the arm itself changes
asks.spectrum = {examples = 500}

The claims file itself is the scale `paper`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analyses.studies.typed import seeds_of, typed

PAPER = "paper"
SCALES = ("tiny", "small", PAPER)


@dataclass(frozen=True)
class Scale:
    """What is changed of the protocol, and why that may still tell."""

    name: str
    about: str = ""
    seeds: tuple[int, ...] | None = None
    experiment: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    asks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        own = f"scale {self.name!r}"
        if self.name not in SCALES[:-1]:
            raise ValueError(f"{own}: expected one of {', '.join(SCALES[:-1])}; the file itself is the scale {PAPER}")
        typed(str, self.about, f"{own}: about")
        if self.seeds is not None:
            object.__setattr__(self, "seeds", seeds_of(self.seeds, f"{own}: seeds"))
        for key in ("experiment", "execution", "arms", "asks"):
            typed(dict, getattr(self, key), f"{own}: {key}")
        for key in ("arms", "asks"):
            for name, changes in getattr(self, key).items():
                typed(dict, changes, f"{own}: {key}.{name}")


def differences(paper: Mapping[str, Any], here: Mapping[str, Any], of: str = "") -> list[str]:
    """What differs between two tables, line by line: `epochs: 200 in the paper, 5 here`."""
    lines = []
    for key in {**paper, **here}:
        there, now = paper.get(key, "the default"), here.get(key, "the default")
        if there != now:
            lines.append(f"{of}{key}: {there} in the paper, {now} here")
    return lines

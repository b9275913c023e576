"""The nouns of a claims file: an arm is trained, an ask is answered at its checkpoints, a value is one number of one run,
and a claim says what these numbers, over arms and seeds, should show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from analyses.studies.statistics import by_name
from analyses.studies.typed import number, plain, seeds_of, typed


@dataclass(frozen=True)
class Arm:
    """One way of training: what it changes of the experiment, and the label it carries in tables and figures."""

    name: str
    label: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """An analysis of a run's checkpoints: which, over which data, with which options; of all arms, or of `arms`."""

    name: str
    analysis: str = ""
    steps: Literal["all", "first", "last"] | list[int] = "all"
    split: str = "train"
    examples: int | None = None
    draw: int = 0
    micro_batch: int | None = None
    autocast: str | None = None
    dtype: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    arms: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing; an analysis left out has the name of the ask."""
        plain(self.name, "ask")  # it names figures
        typed(str, self.analysis, f"{self.name}: analysis")
        object.__setattr__(self, "analysis", self.analysis or self.name)
        typed(str, self.split, f"{self.name}: split")
        typed(dict, self.options, f"options of {self.name}")
        listed = isinstance(self.steps, list) and self.steps and all(type(step) is int for step in self.steps)
        if not listed and self.steps not in ("all", "first", "last"):
            raise ValueError(f"{self.name}: expected steps all, first, last or a list of numbers, got {self.steps!r}")
        if self.split not in ("train", "test"):
            raise ValueError(f"{self.name}: expected the split train or test, got {self.split!r}")
        if self.dtype not in (None, "float32", "float64"):
            raise ValueError(f"{self.name}: expected the dtype float32 or float64, got {self.dtype!r}")
        if self.autocast not in (None, "bfloat16", "float16"):
            raise ValueError(f"{self.name}: expected autocast bfloat16 or float16, got {self.autocast!r}")
        for key in ("examples", "micro_batch"):
            value = getattr(self, key)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{self.name}: expected {key} as a whole number of at least 1, got {value!r}")
        if typed(int, self.draw, f"{self.name}: draw") and self.examples is None:
            raise ValueError(f"{self.name}: draw chooses which examples are taken; expected examples beside it")
        if self.arms is not None:
            arms = tuple(typed(str, arm, f"{self.name}: arms") for arm in typed(list, self.arms, f"{self.name}: arms"))
            object.__setattr__(self, "arms", arms)

    @property
    def chosen(self) -> dict[str, Any]:
        """What `analyses.saved` wants to know beside the analysis and the step: options last."""
        keys = ("split", "examples", "draw", "micro_batch", "autocast", "dtype", "options")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Value:
    """One number of one run: of a metric (`last`, `peak` or `mean` over the training), or of an ask's answer.

    From an answer it is the entry of `variable` at the coordinates `sel`, at the `last` or `first` checkpoint or a step.
    """

    name: str
    label: str = ""
    unit: str = "1"
    format: str = ".4g"
    metric: str | None = None
    ask: str | None = None
    variable: str | None = None
    sel: dict[str, Any] = field(default_factory=dict)
    at: Literal["last", "first", "peak", "mean"] | int = "last"

    def __post_init__(self) -> None:
        """Refuse what means nothing; a label left out is the name."""
        plain(self.name, "value")
        for key in ("label", "unit", "format"):
            typed(str, getattr(self, key), f"value {self.name!r}: {key}")
        object.__setattr__(self, "label", self.label or self.name.replace("_", " "))
        typed(dict, self.sel, f"value {self.name!r}: sel")
        for key, at in self.sel.items():
            if type(at) not in (int, float, str):
                raise TypeError(f"value {self.name!r}: sel: expected text or a number for {key}, got {at!r}")
        try:
            format(1.0, self.format)
        except ValueError:
            raise ValueError(
                f"value {self.name!r}: format: expected one of numbers, as .2f or .1%, got {self.format!r}"
            ) from None
        for key in ("metric", "ask", "variable"):
            if getattr(self, key) is not None:
                typed(str, getattr(self, key), f"value {self.name!r}: {key}")
        if (self.metric is None) == (self.ask is None):
            raise ValueError(f"value {self.name!r}: expected either a metric or an ask with its variable")
        if (self.ask is None) != (self.variable is None) or (self.metric is not None and self.sel):
            raise ValueError(
                f"value {self.name!r}: expected a variable, and a sel if need be, exactly where there is an ask"
            )
        times = ("last", "peak", "mean") if self.metric is not None else ("last", "first")
        if self.at not in times and (self.metric is not None or type(self.at) is not int):
            step = "" if self.metric is not None else " or a step"
            raise ValueError(f"value {self.name!r}: at: expected {', '.join(times)}{step}, got {self.at!r}")


@dataclass(frozen=True)
class Claim:
    """A statement, and the statistic over arms and seeds that decides it.

    `arms` in the order in which the statistic wants them, `levels` the numbers that belong to them, `against` a second
    value, both where the statistic asks for it. `diverged` is what the value is for a run that diverged: an outcome,
    stated before anything is known. `not_testable` says by scale why it cannot be seen there.
    """

    id: str
    statement: str
    source: str
    value: str
    arms: Sequence[str]
    direction: Literal["less", "greater", "equal"]
    statistic: str = "difference"
    levels: Sequence[float] | None = None
    against: str | None = None
    published: str = ""
    family: str = "all"
    min_effect: float = 0.0
    seeds: Sequence[int] | None = None
    diverged: float | None = None
    not_testable: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name in ("id", "statement", "source", "value", "direction", "statistic", "published", "family"):
            typed(str, getattr(self, name), f"{name} of a claim")
        own = f"claim {self.id!r}"
        arms = tuple(typed(str, arm, f"{own}: arms") for arm in typed(list, self.arms, f"{own}: arms"))
        object.__setattr__(self, "arms", arms)
        if self.levels is not None:
            levels = tuple(number(level, f"{own}: levels") for level in typed(list, self.levels, f"{own}: levels"))
            object.__setattr__(self, "levels", levels)
        if self.against is not None:
            typed(str, self.against, f"{own}: against")
        if self.seeds is not None:
            object.__setattr__(self, "seeds", seeds_of(self.seeds, f"{own}: seeds"))
        if self.diverged is not None:
            object.__setattr__(self, "diverged", number(self.diverged, f"{own}: diverged"))
        object.__setattr__(self, "min_effect", number(self.min_effect, f"{own}: min_effect"))
        if self.min_effect < 0:
            raise ValueError(f"{own}: min_effect: expected at least 0, got {self.min_effect}")
        for scale, reason in typed(dict, self.not_testable, f"{own}: not_testable").items():
            typed(str, reason, f"{own}: not_testable: {scale}")
        try:
            by_name(self.statistic).check(
                len(self.arms), self.direction, self.levels, self.against is not None, self.min_effect
            )
        except ValueError as error:
            raise ValueError(f"{own}: {error}") from error
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"{own}: expected different arms, got {', '.join(self.arms)}")

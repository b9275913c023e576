"""A study as data: methods × seeds, the analyses of each run, and the claims to be judged; read from one TOML file.

title = "…"
seeds = [0, 1, 2]
[experiment]            # what all runs share: fields of landscape.Experiment
[methods.sam]           # what each method changes, and the label it carries in figures
label = "SAM"
optimizer = "sam"
[[analyses]]            # what is asked of every run's checkpoints
name = "psf"
id = "psf"              # where an analysis is asked twice, what tells one from the other
steps = "all"           # all, first, last or a list
options = {rho = 0.05}
[[claims]]              # "method's quantity is `less` or `greater` than versus's"
ask = "psf"             # where the quantity's analysis is asked twice: which of them
family = "all"          # claims judged together, so that a family errs in 5 % of studies; left out, all claims are one
diverged = 0.1          # the quantity's value for a run that diverged; left out, such a run leaves the claim open
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from landscape import limited_toml
from landscape.experiment import Experiment
from landscape.recipe import Recipe, of_values
from landscape.runs.run import Run

_PLAIN = re.compile(r"\w[\w.+-]*")  # a name that is one part of a path and leads nowhere else


@dataclass(frozen=True)
class Method:
    """One row of a study: a name (also its folder), the label of its lines, and the experiment's fields it sets."""

    name: str
    label: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One analysis of every run: at which checkpoints, over which data, with which options; called `id` in the study."""

    name: str
    id: str = ""
    steps: Literal["all", "first", "last"] | list[int] = "all"
    split: str = "train"
    examples: int | None = None
    dtype: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what means nothing; an id left out is the analysis's name."""
        for key in ("name", "id", "split"):
            _typed(str, getattr(self, key), f"{key} of an analysis")
        object.__setattr__(self, "id", self.id or self.name)
        if not _PLAIN.fullmatch(self.id):  # it names figures
            raise ValueError(f"{self.name}: expected an id of letters, digits, _ . + -, got {self.id!r}")
        _typed(dict, self.options, f"options of {self.id}")
        listed = isinstance(self.steps, list) and self.steps and all(type(step) is int for step in self.steps)
        if not listed and self.steps not in ("all", "first", "last"):
            raise ValueError(f"{self.id}: expected steps all, first, last or a list of numbers, got {self.steps!r}")
        if self.split not in ("train", "test"):
            raise ValueError(f"{self.id}: expected the split train or test, got {self.split!r}")
        if self.dtype not in (None, "float32", "float64"):
            raise ValueError(f"{self.id}: expected the dtype float32 or float64, got {self.dtype!r}")
        if self.examples is not None and (type(self.examples) is not int or self.examples < 1):
            raise ValueError(f"{self.id}: expected examples as a whole number of at least 1, got {self.examples!r}")

    def steps_of(self, run: Run) -> list[int]:
        """The checkpoints of `run` that are asked; those that an interruption left between the scheduled ones are not."""
        if isinstance(self.steps, list):
            return self.steps
        if self.steps == "all":
            every = run.checkpoint("last").execution.checkpoint_every * run.steps[-1] // run.experiment.epochs
            return [step for step in run.steps if step % every == 0 or step == run.steps[-1]]
        return [run.steps[0 if self.steps == "first" else -1]]


@dataclass(frozen=True)
class Claim:
    """A statement with the statistic that decides it: the mean over seeds of quantity(method) − quantity(versus).

    `diverged` is the value that the quantity takes for a run that diverged: an outcome, stated before anything is known.
    """

    id: str
    statement: str
    source: str
    quantity: str
    method: str
    versus: str
    direction: Literal["less", "greater"]
    ask: str = ""
    family: str = "all"
    diverged: float | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name in ("id", "statement", "source", "quantity", "method", "versus", "direction", "ask", "family"):
            _typed(str, getattr(self, name), f"{name} of a claim")
        if self.diverged is not None:
            object.__setattr__(self, "diverged", _number(self.diverged, f"claim {self.id!r}: diverged"))
        if self.direction not in ("less", "greater"):
            raise ValueError(f"claim {self.id!r}: expected the direction less or greater, got {self.direction!r}")


@dataclass(frozen=True)
class Study:
    """A whole study, as its TOML file says it."""

    name: str
    title: str
    about: str
    seeds: list[int]
    experiment: dict[str, Any]
    methods: list[Method]
    questions: list[Question]
    claims: list[Claim]
    sharpness_radius: float

    def experiment_of(self, method: Method, seed: int) -> Experiment:
        """The experiment of one run."""
        return self.recipe_of(method, seed).experiment

    def recipe_of(self, method: Method, seed: int) -> Recipe:
        """The experiment of one run, and how it is carried out."""
        return of_values(self.experiment | method.changes | {"seed": seed})

    def runs(self, directory: Path) -> Iterator[tuple[Method, int, Path]]:
        """Every run of the study with its folder; one seed of every method before the next seed."""
        for seed in self.seeds:
            for method in self.methods:
                yield method, seed, directory / method.name / f"seed-{seed}"

    @classmethod
    def read(cls, path: Path) -> Study:
        """The study in a TOML file; what is unknown or missing is refused by name."""
        try:
            content = limited_toml.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # no TOML, or no text
            raise ValueError(f"{path}: expected a study as TOML: {error}") from error
        known = {"title", "about", "seeds", "experiment", "methods", "analyses", "claims", "sharpness_radius"}
        missing = {"title", "seeds", "methods"} - set(content)
        if set(content) - known or missing:
            raise ValueError(
                f"{path}: expected the keys {', '.join(sorted(known))}; "
                f"got unknown {sorted(set(content) - known)}, missing {sorted(missing)}"
            )
        try:
            return cls._of(path.stem, content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _of(cls, name: str, content: dict[str, Any]) -> Study:
        seeds = content["seeds"]
        if not isinstance(seeds, list) or not seeds or len({repr(seed) for seed in seeds}) < len(seeds):
            raise ValueError(f"expected seeds as a list of different whole numbers, got {seeds!r}")
        for seed in seeds:
            _typed(int, seed, "seeds")
        methods = []
        for key, row in _typed(dict, content["methods"], "methods").items():
            # it becomes a folder: nothing that leads elsewhere, and not the one of the figures
            if not _PLAIN.fullmatch(key) or key == "figures":
                raise ValueError(f"method {key!r}: expected a plain name of letters, digits, _ . + - (not 'figures')")
            _typed(dict, row, f"method {key!r}")
            label = _typed(str, row.get("label", key), f"label of method {key!r}")
            methods.append(Method(key, label, {k: v for k, v in row.items() if k != "label"}))
        questions = [_record(Question, row) for row in _typed(list, content.get("analyses", []), "analyses")]
        claims = [_record(Claim, row) for row in _typed(list, content.get("claims", []), "claims")]
        for kind, ids in (("analysis", [q.id for q in questions]), ("claim", [c.id for c in claims])):
            twice = [i for i, count in Counter(ids).items() if count > 1]
            if twice:
                raise ValueError(
                    f"expected another id for each {kind}, got {twice[0]!r} twice; tell them apart by `id`"
                )
        names = {method.name for method in methods}
        folded = Counter(name.casefold() for name in names)
        if not names or max(folded.values()) > 1:
            raise ValueError(f"expected methods whose names differ in more than case, got {sorted(names)}")
        for claim in claims:
            for speaks_of in (claim.method, claim.versus):
                if speaks_of not in names:
                    raise ValueError(f"claim {claim.id!r} speaks of {speaks_of!r}: expected one of {sorted(names)}")
        return cls(
            name=name,
            title=_typed(str, content["title"], "title"),
            about=_typed(str, content.get("about", ""), "about"),
            seeds=seeds,
            experiment=_typed(dict, content.get("experiment", {}), "experiment"),
            methods=methods,
            questions=questions,
            claims=claims,
            sharpness_radius=_number(content.get("sharpness_radius", 0.5), "sharpness_radius"),
        )


_WORDS = {str: "text", int: "a whole number", dict: "a table", list: "a list"}


def _typed(kind: type, value: Any, what: str) -> Any:
    if type(value) is not kind:  # a bool is no number here
        raise TypeError(f"{what}: expected {_WORDS[kind]}, got {value!r}")
    return value


def _number(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"{what}: expected a finite number, got {value!r}")
    return float(value)


def _record(kind: Any, row: Any) -> Any:
    known = [f.name for f in fields(kind)]
    unknown = set(_typed(dict, row, f"each {kind.__name__}")) - set(known)
    if unknown:
        raise ValueError(f"expected the keys {', '.join(known)} in a {kind.__name__}, got {sorted(unknown)}")
    return kind(**row)

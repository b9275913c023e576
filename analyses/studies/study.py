"""A study as data: methods × seeds, the analyses of each run, and the claims to be judged; read from one TOML file.

title = "…"
seeds = [0, 1, 2]
[experiment]            # what all runs share: fields of landscape.Experiment
[methods.sam]           # what each method changes, and the label it carries in figures
label = "SAM"
optimizer = "sam"
[[analyses]]            # what is asked of every run's checkpoints
name = "psf"
steps = "all"           # all, first, last or a list
options = {rho = 0.05}
[[claims]]              # "method's quantity is `less` or `greater` than versus's"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from landscape import imports
from landscape.experiment import Experiment
from landscape.runs.run import Run


@dataclass(frozen=True)
class Method:
    """One row of a study: a name (also its folder), the label of its lines, and the experiment's fields it sets."""

    name: str
    label: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One analysis of every run: at which checkpoints, over which data, with which options."""

    name: str
    steps: Literal["all", "first", "last"] | list[int] = "all"
    split: str = "train"
    examples: int | None = None
    dtype: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse steps that mean nothing."""
        listed = isinstance(self.steps, list) and all(isinstance(step, int) for step in self.steps)
        if not listed and self.steps not in ("all", "first", "last"):
            raise ValueError(f"{self.name}: expected steps all, first, last or a list of numbers, got {self.steps!r}")

    def steps_of(self, run: Run) -> list[int]:
        """The checkpoints of `run` that are asked; those that an interruption left between the scheduled ones are not."""
        if isinstance(self.steps, list):
            return self.steps
        if self.steps == "all":
            every = run.experiment.checkpoint_every * run.steps[-1] // run.experiment.epochs
            return [step for step in run.steps if step % every == 0 or step == run.steps[-1]]
        return [run.steps[0 if self.steps == "first" else -1]]


@dataclass(frozen=True)
class Claim:
    """A statement with the statistic that decides it: the mean over seeds of quantity(method) − quantity(versus)."""

    id: str
    statement: str
    source: str
    quantity: str
    method: str
    versus: str
    direction: Literal["less", "greater"]

    def __post_init__(self) -> None:
        """Refuse a direction that means nothing."""
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
        with imports.from_file():
            return Experiment(**(self.experiment | method.changes | {"seed": seed}))

    def runs(self, directory: Path) -> Iterator[tuple[Method, int, Path]]:
        """Every run of the study with its folder; one seed of every method before the next seed."""
        for seed in self.seeds:
            for method in self.methods:
                yield method, seed, directory / method.name / f"seed-{seed}"

    @classmethod
    def read(cls, path: Path) -> Study:
        """The study in a TOML file; what is unknown or missing is refused by name."""
        try:
            content = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: expected a study as TOML: {error}") from error
        known = {"title", "about", "seeds", "experiment", "methods", "analyses", "claims", "sharpness_radius"}
        missing = {"title", "seeds", "methods"} - set(content)
        if set(content) - known or missing:
            raise ValueError(
                f"{path}: expected the keys {', '.join(sorted(known))}; "
                f"got unknown {sorted(set(content) - known)}, missing {sorted(missing)}"
            )
        seeds = content["seeds"]
        if not isinstance(seeds, list) or not all(isinstance(s, int) for s in seeds) or len(set(seeds)) != len(seeds):
            raise ValueError(f"{path}: expected seeds as a list of different whole numbers, got {seeds!r}")
        methods = [
            Method(name, str(row.get("label", name)), {k: v for k, v in row.items() if k != "label"})
            for name, row in content["methods"].items()
        ]
        names = {method.name for method in methods}
        claims = [_record(Claim, row, path) for row in content.get("claims", [])]
        for claim in claims:
            for name in (claim.method, claim.versus):
                if name not in names:
                    raise ValueError(f"{path}: claim {claim.id!r} speaks of {name!r}: expected one of {sorted(names)}")
        return cls(
            name=path.stem,
            title=content["title"],
            about=content.get("about", ""),
            seeds=seeds,
            experiment=content.get("experiment", {}),
            methods=methods,
            questions=[_record(Question, row, path) for row in content.get("analyses", [])],
            claims=claims,
            sharpness_radius=float(content.get("sharpness_radius", 0.5)),
        )


def _record(kind: Any, row: dict[str, Any], path: Path) -> Any:
    known = [f.name for f in fields(kind)]
    unknown = set(row) - set(known)
    if unknown:
        raise ValueError(f"{path}: expected the keys {', '.join(known)} in a {kind.__name__}, got {sorted(unknown)}")
    try:
        return kind(**row)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error

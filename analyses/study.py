"""A study as data: methods × seeds, the analyses of each run, and the claims to be judged; read from one TOML file.

title = "…"
seeds = [0, 1, 2]
[experiment]            # what all runs share: fields of landscape.Experiment
[methods.sam]           # what each method changes, and the label it carries in figures
label = "SAM"
optimizer = "sam"
[[analyses]]            # what is asked of every run's checkpoints
name = "psf"
steps = "all"           # all, last or a list
options = {rho = 0.05}
[[claims]]              # "method's quantity is `less` or `greater` than versus's"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from landscape.experiment import Experiment


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
    steps: Literal["all", "last"] | list[int] = "all"
    split: str = "train"
    examples: int | None = None
    dtype: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


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
            seeds=content["seeds"],
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
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error

"""What a study found, read from its files alone: Datasets over seeds and steps, and numbers with their place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from analyses.saved import analysis_path, read
from analyses.studies.study import Question, Study
from landscape import limited_toml
from landscape.runs.run import Run


def question_file(run: Run, question: Question, step: int) -> Path:
    """The file of the answer to one of a study's questions."""
    return analysis_path(
        run,
        question.name,
        step,
        split=question.split,
        examples=question.examples,
        dtype=question.dtype,
        options=question.options,
    )


@dataclass(frozen=True)
class Number:
    """A value, and the file and dataset it was read from."""

    value: float
    file: Path
    dataset: str


@dataclass(frozen=True)
class Quantity:
    """A column of the report: what it is called, its unit and format, the analysis it needs, how it is read from a run."""

    name: str
    label: str
    unit: str
    form: str
    analysis: str | None
    read: Callable[[Results, Run], Number]
    direction: str | None = None  # of directional sharpness; `side` is the sign of the radius
    side: int = 0


DIVERGED = (
    "diverged.toml"  # in the study's folder: method, seeds and reasons of the runs whose loss became infinite or NaN
)


class Results:
    """The runs of a study in `directory` that are trained and have every answer; `diverged` names those that cannot be."""

    def __init__(self, study: Study, directory: Path) -> None:
        self.study = study
        self.directory = directory
        self._answers: dict[Path, xr.Dataset] = {}
        self.runs: dict[str, dict[int, Run]] = {method.name: {} for method in study.methods}
        for method, seed, folder in study.runs(directory):
            if (folder / "experiment.toml").exists():
                run = Run.open(folder)
                if run.finished and self._answered(run):
                    self.runs[method.name][seed] = run
        self.diverged = {
            (method, seed): reason
            for (method, seed), reason in _noted(directory / DIVERGED).items()
            if seed not in self.runs.get(method, {})
        }
        self._asking: dict[str, Question] = {}  # by analysis, where it is asked more than once
        self.labels = {method.name: method.label for method in study.methods if self.runs[method.name]}

    def _answered(self, run: Run) -> bool:
        return all(question_file(run, q, step).exists() for q in self.study.questions for step in q.steps_of(run))

    def asks(self, analysis: str | None) -> bool:
        """Whether the study asks `analysis`; None asks nothing and is always there."""
        return analysis is None or any(question.name == analysis for question in self.study.questions)

    def asking(self, ask: str) -> Results:
        """The same results, in which the analysis of the question `ask` means that question."""
        (question,) = (question for question in self.study.questions if question.id == ask)
        chosen = copy.copy(self)
        chosen._asking = {**self._asking, question.name: question}
        return chosen

    def each_asking(self, analysis: str | None) -> dict[str, Results]:
        """These results once for each question about `analysis`, by id; once, under the name "", where there is no choice."""
        asked = [question.id for question in self.study.questions if question.name == analysis]
        return {ask: self.asking(ask) for ask in asked} if len(asked) > 1 else {"": self}

    def at_end(self, analysis: str | None) -> bool:
        """Whether `analysis` is asked, at the last checkpoint among others; None asks nothing and is always there."""
        if analysis is None or not self.asks(analysis):
            return analysis is None
        steps = self._question(analysis).steps
        last = {run.steps[-1] for runs in self.runs.values() for run in runs.values()}
        return last <= set(steps) if isinstance(steps, list) else steps != "first"

    def metrics(self) -> dict[str, xr.Dataset]:
        """Each method's training metrics, with a dimension `seed`; methods by label."""
        return {
            label: xr.concat([run.metrics for run in self.runs[name].values()], dim=self._seeds(name))
            for name, label in self.labels.items()
        }

    def series(self, analysis: str) -> dict[str, xr.Dataset]:
        """Each method's answers to one question of the study, with dimensions `seed` and `step`; methods by label."""
        question = self._question(analysis)
        return {
            label: xr.concat([self._over_steps(run, question) for run in self.runs[name].values()], self._seeds(name))
            for name, label in self.labels.items()
        }

    def final(self, analysis: str) -> dict[str, xr.Dataset]:
        """As `series`, at the last checkpoint alone."""
        question = self._question(analysis)
        return {
            label: xr.concat(
                [self.answer(run, question.name, run.steps[-1]) for run in self.runs[name].values()],
                self._seeds(name),
                combine_attrs="override",
            )
            for name, label in self.labels.items()
        }

    def answer(self, run: Run, analysis: str, step: int) -> xr.Dataset:
        """One saved analysis of one run; each file is read once."""
        file = self.file(run, analysis, step)
        if file not in self._answers:
            self._answers[file] = read(file, analysis)
        return self._answers[file]

    def file(self, run: Run, analysis: str, step: int) -> Path:
        """The file of one saved analysis."""
        return question_file(run, self._question(analysis), step)

    def numbers(self, quantity: Quantity) -> dict[str, dict[int, Number]]:
        """A quantity of every finished run, by method and seed."""
        return {
            name: {seed: quantity.read(self, run) for seed, run in runs.items()} for name, runs in self.runs.items()
        }

    def _over_steps(self, run: Run, question: Question) -> xr.Dataset:
        steps = question.steps_of(run)
        found = [self.answer(run, question.name, step) for step in steps]
        # what only some checkpoints have (there is no momentum before the first step) is NaN at the others
        return xr.concat(found, xr.DataArray(steps, dims="step", name="step"), join="outer", combine_attrs="override")

    def _question(self, analysis: str) -> Question:
        if analysis in self._asking:
            return self._asking[analysis]
        found = [question for question in self.study.questions if question.name == analysis]
        if len(found) == 1:
            return found[0]
        asked = ", ".join(question.id for question in self.study.questions)
        raise ValueError(
            f"the study {self.study.name!r} asks {analysis!r} {len(found)} times: expected one of {asked}, by its id"
        )

    def _seeds(self, name: str) -> xr.DataArray:
        return xr.DataArray(list(self.runs[name]), dims="seed", name="seed")


def _noted(file: Path) -> dict[tuple[str, int], str]:
    """Method and seed of the runs that diverged, with the reason."""
    if not file.exists():
        return {}
    try:
        table = limited_toml.loads(file.read_text(encoding="utf-8"))
        return {(method, int(seed)): str(reason) for method, row in table.items() for seed, reason in row.items()}
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"{file}: expected tables of seeds and reasons, one for each method: {error}; delete it, and the study's "
            "command writes it anew"
        ) from error


def _metric(name: str, pick: Callable[[np.ndarray], int]) -> Callable[[Results, Run], Number]:
    def read_metric(results: Results, run: Run) -> Number:
        series = run.metrics[name]
        index = pick(series.values)
        step = int(series[series.dims[0]][index])
        checkpoint = run.checkpoint(next(s for s in run.steps if s >= step))
        return Number(float(series[index]), checkpoint.path, f"/metrics/{name}, step {step}")

    return read_metric


def _last(values: np.ndarray) -> int:
    return len(values) - 1


def _lambda_max(results: Results, run: Run) -> Number:
    step = run.steps[-1]
    value = results.answer(run, "top_eigenvalues", step)["eigenvalue"].values[0]
    return Number(float(value), results.file(run, "top_eigenvalues", step), "/eigenvalue[0]")


def _sharpness(label: str, direction: str, side: int, form: str = ".4f") -> Quantity:
    """S at the study's radius along one direction; the quantity has the direction's name."""

    def read_sharpness(results: Results, run: Run) -> Number:
        step, radius = run.steps[-1], side * results.study.sharpness_radius
        dataset = results.answer(run, "directional_sharpness", step)
        file = results.file(run, "directional_sharpness", step)
        if direction not in dataset.direction.values:
            return Number(float("nan"), file, f"/sharpness has no direction {direction}")
        if not np.isclose(dataset.radius.values, radius, rtol=0, atol=1e-6).any():
            return Number(float("nan"), file, f"/sharpness has no radius {radius:g}")
        chosen = dataset["sharpness"].sel(direction=direction).sel(radius=radius, method="nearest", tolerance=1e-6)
        return Number(float(chosen), file, f"/sharpness, direction {direction}, radius {radius:g}")

    return Quantity(
        f"sharpness_{direction}", f"sharpness, {label}", "nats", form, SHARPNESS, read_sharpness, direction, side
    )


SHARPNESS = "directional_sharpness"
QUANTITIES = (
    Quantity("test_accuracy", "test accuracy, final", "%", ".2%", None, _metric("test_accuracy", _last)),
    Quantity("peak_test_accuracy", "test accuracy, peak", "%", ".2%", None, _metric("test_accuracy", np.nanargmax)),
    Quantity("train_loss", "train loss", "nats", ".3f", None, _metric("train_loss", _last)),
    Quantity("lambda_max", "λ_max", "loss/‖θ‖²", ".2f", "top_eigenvalues", _lambda_max),
    _sharpness("batch gradient", "batch_gradient", 1),  # Becker et al. 2024, Fig. 4A
    _sharpness("full gradient", "gradient", 1),
    _sharpness("−momentum", "momentum", -1),  # Fig. 4B; the step goes along −v
    _sharpness("random", "random", 1, ".5f"),  # Fig. 4C
    Quantity("gradient_evaluations", "gradients", "batches", ".0f", None, _metric("gradient_evaluations", _last)),
    Quantity("seconds", "training time", "s", ".1f", None, _metric("seconds", _last)),
)


def quantity(name: str) -> Quantity:
    """The quantity called `name`."""
    for found in QUANTITIES:
        if found.name == name:
            return found
    raise ValueError(f"unknown quantity {name!r}: expected one of {', '.join(q.name for q in QUANTITIES)}")

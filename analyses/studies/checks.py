"""What can be known to be wrong with claims before anything is trained: every experiment, analysis, option, step, variable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from analyses import registry
from analyses.second_subject import subjects_of, vectors_of
from analyses.studies.claim import Ask, Value
from analyses.studies.claims import Claims
from analyses.studies.stand_in import answer_of
from analyses.studies.values import entry
from landscape import data, imports
from landscape import recipe as recipe_module
from landscape.recipe import Recipe
from landscape.runs.run import Run
from landscape.seeding import isolated
from landscape.training.beginning import rehearse
from landscape.training.evaluation import evaluated
from landscape.training.state import Training
from optimizers.ground.signatures import check_values, options_of


@dataclass(frozen=True)
class Rehearsed:
    """What the first steps of one arm told: examples of each split, steps, bytes of a checkpoint, names of metrics."""

    train: int
    test: int
    steps: int
    checkpoint_bytes: int
    metrics: tuple[str, ...]

    def scheduled(self, recipe: Recipe) -> list[int]:
        """The steps of the checkpoints that an undisturbed run has."""
        per_epoch = self.steps // recipe.experiment.epochs
        return [*range(0, self.steps, recipe.execution.checkpoint_every * per_epoch), self.steps]


def check(claims: Claims) -> None:
    """Refuse what `claims` ask and read if it cannot mean it; loads and trains nothing.

    Raises:
        ValueError: An unknown name, a wrong option, a claim on what no answer has.
        PermissionError: It names somebody's code that nobody allowed (`landscape.imports`).
    """
    for ask in claims.asks.values():
        _check_options(ask)
    answers = {ask.name: answer_of(ask) for ask in claims.asks.values() if _read(ask, claims)}
    for value in claims.declared:
        if value.ask is not None and (answer := answers.get(value.ask)) is not None:
            _check_entry(value, claims.asks[value.ask], answer)


def check_runs(claims: Claims, arms: Iterable[str]) -> dict[str, Rehearsed]:
    """Try the first steps of one run of each of `arms`; loads each data set, writes nothing.

    Raises:
        ValueError: An experiment that cannot be trained, a wrong step, metric or number of examples.
        PermissionError: It names somebody's code that nobody allowed (`landscape.imports`).
    """
    sizes: dict[str, tuple[int, int]] = {}
    found: dict[str, Rehearsed] = {}
    for arm in arms:
        try:
            recipe = recipe_module.loads(claims.recipe_of(arm, claims.seeds_of(arm)[0]).to_toml())
            experiment = recipe.experiment
            source = repr((experiment.data, experiment.data_options))
            if source not in sizes:
                loaded = data.load(experiment)
                sizes[source] = len(loaded.train), len(loaded.test)
            train, test = sizes[source]
            per_epoch = -(-train // experiment.batch_size)
            early = Rehearsed(train, test, experiment.epochs * per_epoch, 0, ())
            for ask in claims.asks.values():
                if ask.arms is None or arm in ask.arms:
                    _check_reach(ask, claims, recipe, early)
            made: list[tuple[int, tuple[str, ...]]] = []
            with isolated(experiment.seed, "training"):
                rehearse(partial(_Observed, recipe, made), Run.planned(arm, experiment))
            found[arm] = Rehearsed(train, test, early.steps, *made[0])
            _check_metrics(claims, arm, found[arm])
        except (TypeError, ValueError) as error:
            raise ValueError(f"arm {arm!r}: {error}") from error
    return found


class _Observed(Training):
    """A rehearsed training that tells the size and the metrics of its checkpoint."""

    def __init__(self, recipe: Recipe, made: list[tuple[int, tuple[str, ...]]]) -> None:
        super().__init__(*recipe)
        self._made = made

    def contents(self, run: Run) -> dict[str, Any]:
        """As of any training, and noted."""
        found = super().contents(run)
        seen: dict[int, int] = {}
        _sizes(found, seen)
        self._made.append((sum(seen.values()), (*found["metrics"], *evaluated(self.loss.task))))
        return found


def _sizes(tree: Any, seen: dict[int, int]) -> None:
    """The bytes of every tensor in a tree, once each."""
    if isinstance(tree, torch.Tensor):
        seen[tree.data_ptr()] = tree.nbytes
    for item in tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list | tuple) else ():
        _sizes(item, seen)


def _read(ask: Ask, claims: Claims) -> bool:
    return any(value.ask == ask.name for value in claims.declared)


def _check_options(ask: Ask) -> None:
    with imports.from_file():  # claims are one
        analysis = registry.get(ask.analysis)
    # a vector cannot stand in a file; the momentum comes from the checkpoint
    vectors, seconds = set(vectors_of(analysis.options)), subjects_of(analysis.options)
    known = [key for key in analysis.options if key not in vectors]
    unknown = sorted(set(ask.options) - set(known))
    if unknown:
        raise ValueError(f"{ask.name}: unknown option {unknown[0]!r}: expected among {', '.join(known)}")
    typed = {key: value for key, value in options_of(analysis.function).items() if key not in {*vectors, *seconds}}
    given = {key: value for key, value in ask.options.items() if key not in {*vectors, *seconds}}
    check_values(ask.name, typed, given)


def _check_entry(value: Value, ask: Ask, answer: Any) -> None:
    """Whether an answer of this kind has the number; of coordinates that count, the stand-in may have fewer."""
    numbered = [key for key, at in value.sel.items() if type(at) is int and key in answer.dims]
    few = {key: answer[key].values[0].item() if key in answer.coords else 0 for key in numbered if answer.sizes[key]}
    try:
        entry(answer, str(value.variable), {**value.sel, **few})
    except (KeyError, ValueError) as error:
        raise ValueError(f"value {value.name!r}, of {ask.name}: {error.args[0]}") from error


def _check_metrics(claims: Claims, arm: str, found: Rehearsed) -> None:
    named = {claim.value for claim in claims.claims if arm in claim.arms}
    named |= {claim.against for claim in claims.claims if arm in claim.arms and claim.against}
    for value in claims.values.values():
        wanted = value.name in named or value in claims.declared
        if wanted and value.metric is not None and value.metric not in found.metrics:
            known = ", ".join(sorted(set(found.metrics)))
            raise ValueError(f"value {value.name!r}: metric: expected one of {known}, got {value.metric!r}")


def _check_reach(ask: Ask, claims: Claims, recipe: Recipe, sizes: Rehearsed) -> None:
    there = sizes.train if ask.split == "train" else sizes.test
    if ask.examples is not None and ask.examples > there:
        raise ValueError(
            f"{ask.name}: expected examples from 1 to {there} of the {ask.split} split, got {ask.examples}"
        )
    steps = sizes.scheduled(recipe)
    asked = (
        ask.steps if isinstance(ask.steps, list) else {"all": steps, "first": steps[:1], "last": steps[-1:]}[ask.steps]
    )
    reading = [value for value in claims.declared if value.ask == ask.name]
    for value in reading:
        step = {"last": steps[-1], "first": 0}.get(str(value.at), value.at)
        if step not in asked:
            claim = next((f"claim {c.id!r}" for c in claims.claims if value.name in (c.value, c.against)), "")
            reads = f"{claim or f'value {value.name!r}'} reads the {f'{value.at} checkpoint' if isinstance(value.at, str) else 'step'}"
            raise ValueError(f"{reads}; expected its step {step} among those of {ask.name}, {asked}")
    unknown = sorted(set(asked) - set(steps))
    if unknown:
        per_epoch = sizes.steps // recipe.experiment.epochs
        raise ValueError(
            f"{ask.name}: no checkpoint at step {unknown[0]}; expected among 0, "
            f"{recipe.execution.checkpoint_every * per_epoch}, … {steps[-1]}"
        )

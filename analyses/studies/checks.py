"""What can be known to be wrong with a study before anything is trained: every experiment, analysis, option, step, claim."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

import analyses
from analyses.second_subject import subjects_of, vectors_of
from analyses.studies.results import quantity
from analyses.studies.study import Claim, Method, Question, Study
from landscape import data, imports
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.seeding import isolated
from landscape.training.beginning import rehearse
from landscape.training.training import Training
from optimizers.ground.signatures import check_values, options_of


def check(study: Study) -> None:
    """Refuse what `study` asks and claims if it cannot mean it; loads and trains nothing.

    Raises:
        ValueError: An unknown name, a wrong option, a claim on what is not asked for.
    """
    for question in study.questions:
        _check_options(question)
    for claim in study.claims:
        _check_claim(claim, study)


def check_runs(study: Study, methods: Iterable[Method]) -> None:
    """Try the first steps of one run of each of `methods`; loads each data set, writes nothing.

    Raises:
        ValueError: An experiment that cannot be trained, a wrong step or number of examples.
        PermissionError: It names somebody's code that nobody allowed (`landscape.imports`).
    """
    sizes: dict[str, tuple[int, int]] = {}
    for method in methods:
        try:
            experiment, execution = study.recipe_of(method, study.seeds[0])
            source = repr((experiment.data, experiment.data_options))
            if source not in sizes:
                loaded = data.load(experiment)
                sizes[source] = len(loaded.train), len(loaded.test)
            for question in study.questions:
                _check_reach(question, study, experiment, execution, *sizes[source])
            with isolated(experiment.seed, "training"):
                rehearse(partial(Training, experiment, execution), Run.planned(method.name, experiment))
        except (TypeError, ValueError) as error:
            raise ValueError(f"method {method.name!r}: {error}") from error


def _check_options(question: Question) -> None:
    with imports.from_file():  # a study is one
        analysis = analyses.get(question.name)
    # a vector cannot stand in a file; the momentum comes from the checkpoint
    vectors, seconds = set(vectors_of(analysis.options)), subjects_of(analysis.options)
    known = [key for key in analysis.options if key not in vectors]
    unknown = sorted(set(question.options) - set(known))
    if unknown:
        raise ValueError(f"{question.id}: unknown option {unknown[0]!r}: expected among {', '.join(known)}")
    typed = {key: value for key, value in options_of(analysis.function).items() if key not in {*vectors, *seconds}}
    given = {key: value for key, value in question.options.items() if key not in {*vectors, *seconds}}
    check_values(question.id, typed, given)


def _check_claim(claim: Claim, study: Study) -> None:
    needs = quantity(claim.quantity).analysis
    if needs is None:
        if claim.ask:
            raise ValueError(f"claim {claim.id!r}: {claim.quantity} is of the training; expected no `ask`")
        return
    asked = [question for question in study.questions if question.name == needs]
    ids = _listed(question.id for question in asked)
    if not asked:
        raise ValueError(
            f"claim {claim.id!r}: {claim.quantity} needs the analysis {needs}, which the study does not ask; "
            "add it under [[analyses]]"
        )
    if len(asked) > 1 and not claim.ask:
        raise ValueError(f"claim {claim.id!r}: {needs} is asked {len(asked)} times; say which as ask = one of {ids}")
    chosen = [question for question in asked if claim.ask in ("", question.id)]
    if not chosen:
        raise ValueError(f"claim {claim.id!r}: ask = {claim.ask!r} is no {needs} of this study; expected one of {ids}")
    if chosen[0].steps == "first":
        raise ValueError(f"claim {claim.id!r} reads the last checkpoint; {chosen[0].id} is asked at the first alone")
    _check_direction(claim, study, chosen[0])


def _check_direction(claim: Claim, study: Study, question: Question) -> None:
    direction, side = quantity(claim.quantity).direction, quantity(claim.quantity).side
    if direction is None:
        return
    asked = question.options.get("directions")
    if asked is not None and direction not in asked:
        raise ValueError(
            f"claim {claim.id!r}: {claim.quantity} needs the direction {direction!r}; expected it among the directions of "
            f"{question.id}, got {asked}"
        )
    radius = side * study.sharpness_radius
    radii = question.options.get("radii", analyses.get(question.name).options["radii"].default)
    if not np.isclose(radii, radius, rtol=0, atol=1e-6).any():
        raise ValueError(
            f"claim {claim.id!r}: {claim.quantity} is read at the radius {radius:g} (sharpness_radius); expected it among "
            f"the radii of {question.id}, got {list(radii)}"
        )


def _check_reach(
    question: Question, study: Study, experiment: Experiment, execution: Execution, train: int, test: int
) -> None:
    there = train if question.split == "train" else test
    if question.examples is not None and question.examples > there:
        raise ValueError(
            f"{question.id}: expected examples from 1 to {there} of the {question.split} split, got {question.examples}"
        )
    if isinstance(question.steps, list):
        per_epoch = -(-train // experiment.batch_size)
        last = experiment.epochs * per_epoch
        steps = {*range(0, last, execution.checkpoint_every * per_epoch), last}
        claims = [
            c for c in study.claims if question.name == quantity(c.quantity).analysis and c.ask in ("", question.id)
        ]
        if claims and last not in question.steps:
            raise ValueError(
                f"claim {claims[0].id!r} reads the last checkpoint; expected its step {last} among those of {question.id}"
            )
        unknown = sorted(set(question.steps) - steps)
        if unknown:
            raise ValueError(
                f"{question.id}: no checkpoint at step {unknown[0]}; expected among 0, "
                f"{execution.checkpoint_every * per_epoch}, … {last}"
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)

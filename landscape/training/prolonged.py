"""More epochs for a run that is there: allowed where nothing before its old end would have been another number.

That is where nothing depends on how many epochs there are: a constant rate, no option that follows the whole training.
The run's experiment.toml then says the new number; its checkpoints keep the experiment with which they were made.
"""

from __future__ import annotations

import math

import optimizers
from landscape.experiment import CHOICES, Experiment
from landscape.runs.lock import writing
from landscape.runs.run import Run
from landscape.store.atomic_file import write_text
from landscape.training.methods import EPOCHS, described
from optimizers.ground.signatures import Steps, mark_of, options_of


def bound_to_the_end(experiment: Experiment) -> list[str]:
    """What of `experiment` depends on its number of epochs, each in words."""
    found = []
    if experiment.schedule != "constant":
        found.append(f"schedule = {experiment.schedule!r} ends with the last epoch")
    whole = [option for option, epochs in described(experiment.optimizer).lengths.items() if math.isinf(epochs)]
    found += [
        f"{experiment.optimizer}'s {option} is the length of the training"
        for option in whole
        if not {option, option + EPOCHS} & set(experiment.optimizer_options)
    ]
    for kind in CHOICES:
        said = getattr(experiment, kind)
        known = options_of(optimizers.choice(kind, said["name"])) if said else {}
        for option, parameter in known.items():
            mark = mark_of(Steps, parameter.annotation)
            if mark is not None and mark.epochs == math.inf and not {option, option + EPOCHS} & set(said):
                found.append(f"{option} of {kind} {said['name']!r} is the length of the training")
    return found


def is_prolonged(before: Experiment, now: Experiment) -> bool:
    """Whether `now` is `before` for more epochs, all of which may follow what `before` did."""
    return now.epochs > before.epochs and now == before.replace(epochs=now.epochs) and not bound_to_the_end(now)


def prolonged(run: Run, experiment: Experiment) -> bool:
    """Whether `experiment` is that of `run` for more epochs.

    Raises:
        ValueError: It is, and something depends on the number of epochs; names what.
    """
    there = run.experiment
    if experiment.epochs <= there.epochs or experiment != there.replace(epochs=experiment.epochs):
        return False
    reasons = bound_to_the_end(experiment)
    if reasons:
        raise ValueError(
            f"{run.path} holds this experiment for {there.epochs} epochs, which cannot go on to {experiment.epochs}: "
            f"{', '.join(reasons)}; choose another folder"
        )
    return True


def prolong(run: Run, experiment: Experiment) -> None:
    """Write that `run` is to have the epochs of `experiment`; `RunInUse` where another process is training it."""
    with writing(run.path):
        write_text(run.path / "experiment.toml", experiment.to_toml())

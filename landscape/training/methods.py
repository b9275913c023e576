"""The method that an experiment names, with its policy, metric and schedule of ρ, and the lengths that follow the training's.

A registered one, or anybody's class where `landscape.imports` lets it run. What a signature counts in steps may be said in
epochs: `start_epochs = 8` is `start` = 8 epochs' steps.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch

import optimizers
from landscape import imports
from landscape.experiment import CHOICES, Experiment
from landscape.runs.checkpoint import Checkpoint
from optimizers.ground.signatures import Steps, at_least, did_you_mean, fits, in_words, mark_of, options_of

EPOCHS = "_epochs"
_Epochs = Annotated[float, at_least(0)]


def described(name: str) -> optimizers.OptimizerInfo:
    """What is known of the method.

    Raises:
        PermissionError: A file names somebody's class, and nobody allowed it.
        ValueError: There is none of that name.
    """
    if ":" in name:
        imports.require("optimizer", name)
    return optimizers.describe(name)


def build_method(
    experiment: Experiment, base: torch.optim.Optimizer, steps_per_epoch: int, continued: Checkpoint | None = None
) -> tuple[optimizers.SharpnessAware, dict[str, int]]:
    """The experiment's method over `base`, and its options that the length of the training decides, in steps.

    Those (`lengths` of its registration) follow this training's where the experiment does not say them; with `continued`
    they are that checkpoint's.

    Raises:
        PermissionError: A file names somebody's class, and nobody allowed it.
        TypeError, ValueError: No such method, choice or option, or a wrong value; or the method has made that choice itself.
    """
    name, info = experiment.optimizer, described(experiment.optimizer)
    options = in_steps(name, optimizers.hyperparameters(name), experiment.optimizer_options, steps_per_epoch)
    following = {option: epochs for option, epochs in info.lengths.items() if option not in options}
    if continued is None:
        lengths = {option: _steps(epochs, experiment, steps_per_epoch) for option, epochs in following.items()}
    else:  # one of an older release has none, and goes on as it began
        found = {option: continued.attributes.get(f"optimizer_{option}") for option in following}
        lengths = {option: int(steps) for option, steps in found.items() if isinstance(steps, int)}
    if experiment.rho is not None:
        options["rho"] = experiment.rho
    chosen = {kind: _choice(kind, experiment, steps_per_epoch) for kind in CHOICES if getattr(experiment, kind)}
    try:
        return optimizers.create(name, base, **lengths, **options, **chosen), lengths
    except TypeError as error:
        for kind in chosen:
            if f"multiple values for keyword argument '{kind}'" in str(error):
                raise ValueError(
                    f"{kind}: {name} has one of its own, which makes it what it is; leave {kind} out, or take a method "
                    "that has none, as sam and msam"
                ) from error
        raise


def in_steps(
    subject: str, known: Mapping[str, inspect.Parameter], options: Mapping[str, Any], steps_per_epoch: int
) -> dict[str, Any]:
    """`options` with every `X_epochs` as X, rounded to whole steps, where the signature counts X in steps.

    Raises:
        ValueError: It does not, or X is said twice, or is no number of epochs.
    """
    found = {}
    for name, value in options.items():
        counted = name.removesuffix(EPOCHS)
        if name in known or counted == name:
            found[name] = value
            continue
        if counted not in known or mark_of(Steps, known[counted].annotation) is None:
            also = [f"{option}{EPOCHS}" for option, p in known.items() if mark_of(Steps, p.annotation) is not None]
            raise ValueError(f"{subject}: unknown option {did_you_mean([name], [*known, *also])}")
        if counted in options:
            raise ValueError(
                f"{subject}: {counted}: expected once, in steps or in epochs, got {options[counted]!r} and {name} = {value!r}"
            )
        if not fits(_Epochs, value):
            raise ValueError(f"{subject}: {name}: expected {in_words(_Epochs)}, got {value!r}")
        found[counted] = round(value * steps_per_epoch)
    return found


def _choice(kind: str, experiment: Experiment, steps_per_epoch: int) -> Any:
    said = dict(getattr(experiment, kind))
    name = said.pop("name")
    if ":" in name:
        imports.require(kind, name)
    known = options_of(optimizers.choice(kind, name))
    options = in_steps(f"{kind} {name!r}", known, said, steps_per_epoch)
    for option, parameter in known.items():
        mark = mark_of(Steps, parameter.annotation)
        if mark is not None and mark.epochs is not None and option not in options:
            options[option] = _steps(mark.epochs, experiment, steps_per_epoch)
    try:
        return optimizers.create_choice(kind, name, **options)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _steps(epochs: float, experiment: Experiment, steps_per_epoch: int) -> int:
    return experiment.epochs * steps_per_epoch if math.isinf(epochs) else round(epochs * steps_per_epoch)

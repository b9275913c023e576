"""The learning rate over a run: a linear ramp from zero, then cosine to zero or constant, changed at every step."""

from __future__ import annotations

import math

import torch

from landscape.experiment import Experiment


def learning_rate_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """The factor on the peak learning rate at `step` of `steps`, `warmup` of which ramp up.

    Ramp: (t + 1)/warmup, so that the first step already moves. Cosine: ½(1 + cos(π (t − warmup)/(steps − warmup))).
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def build_schedule(
    experiment: Experiment, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The experiment's schedule as one of torch's schedulers, to be stepped after every optimizer step."""
    steps = experiment.epochs * steps_per_epoch
    warmup = round(experiment.warmup_epochs * steps_per_epoch)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(step, steps=steps, warmup=warmup, schedule=experiment.schedule),
    )

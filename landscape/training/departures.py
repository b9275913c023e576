"""What makes a run that is continued no longer bit-equal to one that was never interrupted: found, warned of, and kept."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from landscape import distributed, running_statistics
from landscape.execution import Execution
from landscape.runs.checkpoint import Checkpoint
from landscape.tf32 import tf32_in_use


def departed(
    checkpoint: Checkpoint, execution: Execution, device: torch.device, model: nn.Module, evaluated: int
) -> str:
    """The departures that `checkpoint` knows of and those of its being continued, one line each; warns of the latter.

    The cadence of checkpoints and probes is none: neither changes a number of the training.
    """
    new = [f"{checkpoint.path.name} {text}" for text in _found(checkpoint, execution, device, model, evaluated)]
    for line in new:
        warnings.warn(line, stacklevel=3)
    return "\n".join([*filter(None, str(checkpoint.attributes.get("departures", "")).split("\n")), *new])


def _found(
    checkpoint: Checkpoint, execution: Execution, device: torch.device, model: nn.Module, evaluated: int
) -> list[str]:
    before, unequal = checkpoint.execution, "so the run is no longer bit-equal to an uninterrupted one"
    normalised = running_statistics.tracked(model)
    found = []
    processes, now = len(checkpoint.state("rng")), distributed.world_size()
    if processes != now:
        shares = ", BatchNorm normalises over other shares of a batch" if normalised else ""
        found.append(
            f"was written by {processes} processes and is continued by {now}: gradients are summed in another order and "
            f"dropout draws other numbers{shares}, {unequal}"
        )
    whole = checkpoint.experiment.batch_size
    if min(before.micro_batch_size or whole, whole) != min(execution.micro_batch_size or whole, whole):
        parts = ", BatchNorm normalises over other parts of a batch" if normalised else ""
        found.append(
            f"was computed with micro_batch_size = {before.micro_batch_size} and is continued with "
            f"{execution.micro_batch_size}: gradients are summed in another order and dropout draws other numbers{parts}, "
            f"{unequal}"
        )
    kind = torch.device(before.device).type
    if kind != device.type:
        found.append(
            f"was computed on {kind} and is continued on {device.type}: numbers are rounded otherwise and dropout draws "
            f"others, {unequal}"
        )
    tf32, tf32_now = checkpoint.attributes.get("tf32", "convolutions"), tf32_in_use(device)  # torch's default
    if device.type == kind == "cuda" and tf32 != tf32_now:
        found.append(f"was computed with TF32 in {tf32} and is continued with TF32 in {tf32_now}: {unequal}")
    examples = checkpoint.attributes.get("evaluated_examples", evaluated)
    if examples != evaluated:
        tested = ", the test split's with BatchNorm too" if normalised else ""
        found.append(
            f"was evaluated on {examples} training examples, what follows is on {evaluated}: train_loss and train_accuracy "
            f"are other numbers from here on{tested}; the training stays as it is"
        )
    return found

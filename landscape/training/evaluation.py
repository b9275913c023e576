"""What an evaluation measures: the task's loss and metrics, over some training examples and the whole test split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from landscape import distributed
from landscape.tasks import Task, TaskLoss
from optimizers.ground.rows import arguments

SPLITS = ("train", "test")


def evaluated(task: Task) -> tuple[str, ...]:
    """The metrics that are measured at checkpoints."""
    measured = [f"{split}_{name}" for split in SPLITS for name in ("loss", *task.metrics)]
    return (*measured, "seconds", "gradient_evaluations")


@torch.no_grad()
def measure(
    network: nn.Module, loss: TaskLoss, batches: Iterable[tuple[Any, Any]], device: torch.device
) -> dict[str, Tensor]:
    """The mean loss and the task's metrics over `batches`, in the mode that the network is in.

    Each process has batches of its own; sums are added up, so that uneven ones weigh what they count. Of no batch, none.
    Cost: one forward pass of them.
    """
    totals: dict[str, Tensor] = {}
    wide = accumulator(device)
    for inputs, targets in batches:
        args, kwargs = arguments(inputs)
        prediction = loss.prediction(network(*args, **kwargs))
        count = torch.as_tensor(loss.task.count(targets), device=device).to(wide)
        value = loss.of_prediction(prediction, targets)
        found = {**loss.task.sums(prediction, targets), "count": count, "loss": value.to(wide) * count}
        for name, total in found.items():
            totals[name] = totals[name] + total.to(wide) if name in totals else total.to(wide)
    if not totals:
        return {}
    sums = dict(zip(totals, distributed.sum_over_processes(list(totals.values())), strict=True))
    return {"loss": sums["loss"] / sums["count"], **loss.task.measured(sums)}


def accumulator(device: torch.device) -> torch.dtype:
    """Of sums over a split."""
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64

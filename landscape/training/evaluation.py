"""What an evaluation measures: the task's loss and metrics, over some training examples and the whole test split."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from landscape import distributed
from landscape.data import Split
from landscape.shared_examples import EVALUATION_BATCH
from landscape.tasks import Task, TaskLoss
from optimizers.ground.rows import arguments

SPLITS = ("train", "test")


def evaluated(task: Task) -> tuple[str, ...]:
    """The metrics that are measured at checkpoints."""
    measured = [f"{split}_{name}" for split in SPLITS for name in ("loss", *task.metrics)]
    return (*measured, "seconds", "gradient_evaluations")


@torch.no_grad()
def measure(
    network: nn.Module, loss: TaskLoss, split: Split, examples: Tensor, goes_on: Callable[[Tensor], bool]
) -> dict[str, Tensor]:
    """The mean loss and the task's metrics over `examples` of a split, in the mode that the network is in.

    Each process looks at its share; sums are added up, so that uneven batches weigh what they count. Ends early, with
    numbers of no use, where `goes_on` says so. Cost: one forward pass of them.
    """
    totals: dict[str, Tensor] = {}
    wide = _accumulator(examples.device)
    for index in itertools.takewhile(goes_on, distributed.share(examples).split(EVALUATION_BATCH)):
        batch = split[index]
        args, kwargs = arguments(batch.inputs)
        prediction = loss.prediction(network(*args, **kwargs))
        count = torch.as_tensor(loss.task.count(batch.targets), device=examples.device).to(wide)
        value = loss.of_prediction(prediction, batch.targets)
        found = {**loss.task.sums(prediction, batch.targets), "count": count, "loss": value.to(wide) * count}
        for name, total in found.items():
            totals[name] = totals[name] + total.to(wide) if name in totals else total.to(wide)
    if not totals:
        return {}
    sums = dict(zip(totals, distributed.sum_over_processes(list(totals.values())), strict=True))
    return {"loss": sums["loss"] / sums["count"], **loss.task.measured(sums)}


def _accumulator(device: torch.device) -> torch.dtype:
    """Of sums over a split."""
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64

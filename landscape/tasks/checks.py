"""Does a task fit its data and its model? Asked once, before the first step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from landscape.tasks.task import Task
from landscape.tasks.task_loss import TaskLoss
from optimizers.ground.rows import first_tensor, rows_of

ROWS = 8  # that a look is taken at
ROUNDING = {torch.float64: 1e-6, torch.float32: 2e-3}  # relative; 0.05 for lower ones


def require_rows(outputs: Any, targets: Any) -> None:
    """Raise `ValueError` unless both are tensors with rows."""
    for name, value in (("outputs", outputs), ("targets", targets)):
        if not isinstance(value, Tensor) or not value.ndim:
            got = "a scalar" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"expected {name} that are one tensor with a row for each example, got {got}")


def require_whole(targets: Tensor, why: str) -> None:
    """Raise `ValueError` unless the targets are what torch takes as indices."""
    if targets.dtype != torch.int64:
        cure = "regression is for numbers" if targets.is_floating_point() else "give them as targets.long()"
        raise ValueError(f"{why}: expected targets of torch.int64, got {targets.dtype}; {cure}")


def require_fit(loss: TaskLoss, name: str, prediction: Any, targets: Any, splits: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless the task called `name` fits what the model predicts of a few examples with `targets`, and
    the targets of the `splits` (None: not at hand), and its loss is the mean it says.
    """
    for split, all_targets in splits.items():
        try:
            loss.task.check(prediction, targets if all_targets is None else all_targets)
        except ValueError as error:
            raise ValueError(f"task {name!r}, {split} split: {error}") from error
    if loss.torch_loss is None:
        require_mean(loss.task, prediction, targets)


def require_mean(task: Task, outputs: Any, targets: Any) -> None:
    """Raise `ValueError` unless the loss of some rows is a scalar, and the mean of that of their parts by `count`.

    Cost: four losses of eight rows; no forward pass.
    """
    loss = task.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"task {task}: expected its loss to be a scalar tensor, got {got}; take the mean")
    given, predicted = first_tensor(targets), first_tensor(outputs)
    if given is None or predicted is None or not predicted.ndim or len(given) != len(predicted) or len(given) < 2:
        return
    rows = min(ROWS, len(given))
    outputs, targets = (rows_of(value, slice(rows), len(given)) for value in (outputs, targets))
    cuts = [slice(start, end) for start, end in itertools.pairwise(sorted({0, 1, rows // 2, rows}))]
    parts = [(outputs, targets), *(tuple(rows_of(v, cut, rows) for v in (outputs, targets)) for cut in cuts)]
    whole, *each = [float(task.loss(*part)) for part in parts]
    total, *counts = [float(task.count(part[1])) for part in parts]
    mean = sum(count * value for count, value in zip(counts, each, strict=True) if count) / total if total else 0.0
    if not abs(whole) < float("inf"):
        return  # the training says so itself, with the number of the step
    if abs(whole - mean) > ROUNDING.get(predicted.dtype, 0.05) * max(map(abs, (whole, *each))) or total != sum(counts):
        raise ValueError(
            f"task {task}: expected a loss that is a mean over what `count` counts, got {whole:.6g} for {rows} rows, whose "
            f"parts of {', '.join(f'{count:g}' for count in counts)} have the mean {mean:.6g}; micro-batches, processes "
            "and evaluations would be weighed wrongly. Let `count` say what the loss is a mean over"
        )

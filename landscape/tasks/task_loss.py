"""A task's loss as a function of what the model returns: `loss_fn(model(inputs), targets)`, for steps and objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from landscape.objective.loss_average import TorchLoss
from landscape.tasks.task import Task
from optimizers.ground.rows import first_tensor


class TaskLoss(nn.Module):
    """The mean loss of the model's outputs, in single precision at least, and outside of any autocast."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    @property
    def torch_loss(self) -> TorchLoss | None:
        """The loss of torch that it is, if it is one."""
        return self.task.torch_loss

    @property
    def weighs(self) -> Callable[[Any], int | Tensor] | None:
        """The task's `count` where it is not of rows."""
        return None if type(self.task).count is Task.count else self.task.count

    def count(self, inputs: Any, targets: Any) -> int:
        """Over how much the mean of a batch is, as `Objective(count=)` wants it; one read from the device."""
        return int(self.task.count(targets))

    def prediction(self, output: Any) -> Any:
        """What the task takes of the model's output, in the precision of the weights: bfloat16 is of autocast."""
        found = self.task.prediction(output)
        return _widened(found) if isinstance(found, Tensor) else pytree.tree_map(_widened, found)

    def of_prediction(self, prediction: Any, targets: Any) -> Tensor:
        """The loss of what `prediction` gives."""
        tensor = first_tensor(prediction)
        device = "cpu" if tensor is None else tensor.device.type
        if not torch.is_autocast_enabled(device):  # entering a block costs more than the loss of a small batch
            return self.task.loss(prediction, targets)
        with torch.autocast(device, enabled=False):
            return self.task.loss(prediction, targets)

    def forward(self, output: Any, targets: Any) -> Tensor:
        """The loss of the model's output."""
        return self.of_prediction(self.prediction(output), targets)

    def __repr__(self) -> str:
        return repr(self.task)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value

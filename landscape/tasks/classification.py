"""Classification: cross-entropy with labels as indices, and how many labels are right."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from landscape.objective.loss_average import torch_loss
from landscape.tasks.checks import require_rows, require_whole
from landscape.tasks.task import Task, tasks
from optimizers.ground.signatures import between


class Classification(Task):
    """Mean cross-entropy over examples, torch's label smoothing; accuracy."""

    metrics: ClassVar = {"accuracy": "fraction"}

    def __init__(self, *, label_smoothing: Annotated[float, between(0, 1)] = 0.0, output: str = "") -> None:
        self.output = output
        self.cross_entropy = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        described = torch_loss(self.cross_entropy)
        assert described is not None
        self.torch_loss = dataclasses.replace(described, of_outputs=self.prediction)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over examples, in nats."""
        value: Tensor = self.cross_entropy(outputs, targets)
        return value

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """How many of the largest outputs are the labels."""
        return {"accuracy": (outputs.argmax(-1) == targets).sum()}

    def check(self, outputs: Any, targets: Any) -> None:
        """Outputs (N, classes), targets (N,) whole numbers from 0 to classes − 1."""
        require_rows(outputs, targets)
        require_whole(targets, "classification takes labels as indices")
        if outputs.ndim != 2 or targets.ndim != 1:
            raise ValueError(
                f"expected outputs (N, classes) and targets (N,), got {tuple(outputs.shape)} and "
                f"{tuple(targets.shape)}; one label for each position is for the task language"
            )
        low, high = torch.stack(targets.aminmax()).tolist()
        if low < 0 or high >= outputs.shape[1]:
            raise ValueError(
                f"expected labels from 0 to {outputs.shape[1] - 1}, since the model has {outputs.shape[1]} "
                f"outputs, got {low} to {high}; give the model as many classes as the data have"
            )

    def __repr__(self) -> str:
        return repr(self.cross_entropy)


tasks.register(Classification, name="classification")

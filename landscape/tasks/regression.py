r"""Regression: a mean over the entries of the targets, and how much of their variance is explained.

mse = Σ (f − y)² / entries        R² = 1 − Σ (f − y)² / Σ (y − ȳ)²,  ȳ of each output by itself
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from landscape.objective.loss_average import torch_loss
from landscape.tasks.checks import require_rows
from landscape.tasks.task import Task, tasks

LOSSES: dict[str, type[nn.Module]] = {"mse": nn.MSELoss, "l1": nn.L1Loss, "huber": nn.HuberLoss}


class Regression(Task):
    """Mean squared error over entries (or l1, huber); mse and R². Targets in the shape of the outputs."""

    metrics: ClassVar = {"mse": "targets²", "r2": "fraction"}

    def __init__(self, *, loss: Literal["mse", "l1", "huber"] = "mse", output: str = "") -> None:
        self.output = output
        self.error = LOSSES[loss]()
        described = torch_loss(self.error)
        assert described is not None
        self.torch_loss = dataclasses.replace(described, of_outputs=self.prediction)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over entries."""
        value: Tensor = self.error(_fitting(outputs, targets), targets)
        return value

    def count(self, targets: Tensor) -> int:
        """Entries."""
        return targets.numel()

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Squared errors over all, and rows, targets and their squares for each output."""
        wide = torch.float32 if targets.device.type == "mps" else torch.float64
        y, error = targets.to(wide), _fitting(outputs, targets).to(wide) - targets.to(wide)
        rows = torch.tensor(float(len(targets)), dtype=wide, device=targets.device)
        return {"mse": error.square().sum(), "rows": rows, "targets": y.sum(0), "squares": y.square().sum(0)}

    def measured(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """mse and R²; R² is NaN where targets do not vary, or by less than the rounding of their squares."""
        squares, mean = sums["squares"], sums["targets"] / sums["rows"]
        varied = (squares - sums["rows"] * mean.square()).sum()
        known = varied > 1e3 * torch.finfo(squares.dtype).eps * squares.sum()
        r2 = torch.where(known, 1 - sums["mse"] / varied, torch.nan)
        return {"mse": sums["mse"] / sums["count"], "r2": r2}

    def check(self, outputs: Any, targets: Any) -> None:
        """Floating-point targets of the outputs' shape."""
        require_rows(outputs, targets)
        if not targets.is_floating_point():
            raise ValueError(
                f"expected floating-point targets, got {targets.dtype}; labels are for classification, "
                "or let the data set turn them into numbers (targets.float())"
            )
        _fitting(outputs, targets)
        if not bool((finite := targets.isfinite()).all()):
            row = int((~finite).nonzero()[0, 0])
            raise ValueError(
                f"expected finite targets, got NaN or infinite ones in example {row}; a task of your own may pass over those "
                "that are missing"
            )

    def __repr__(self) -> str:
        return repr(self.error)


def _fitting(outputs: Tensor, targets: Tensor) -> Tensor:
    """The outputs in the targets' shape: (N, 1) stands for (N,)."""
    if outputs.ndim == targets.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    if outputs.shape[1:] != targets.shape[1:]:
        raise ValueError(
            f"expected outputs of the shape of the targets, (N, {_sizes(targets)}), got (N, "
            f"{_sizes(outputs)}), which torch would stretch to each other; change the model's outputs or the data's targets"
        )
    return outputs


def _sizes(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape[1:]))


tasks.register(Regression, name="regression")

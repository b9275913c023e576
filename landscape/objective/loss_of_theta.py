"""What the parts of an objective see of it: the loss as a function of θ, over batches, with its counters.

`Objective` is the one class that has all of this; its parts name this protocol instead, so that no arrow returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from landscape.objective.batches import Batch, Batches
from landscape.objective.model_function import LossFunction, ModelFunction
from landscape.objective.parameters import ParameterSpace


class LossOfTheta(Protocol):
    """L(θ) = Σ_b W_b ℓ_b(θ) / Σ_b W_b over `batches`, θ in the coordinates of `space`."""

    function: ModelFunction
    batches: Batches
    space: ParameterSpace
    device: torch.device
    population: int | None

    @property
    def model(self) -> nn.Module:
        """The model evaluated."""

    @property
    def loss_fn(self) -> LossFunction:
        """The loss of a batch."""

    @property
    def size(self) -> int:
        """n, the number of coordinates."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of θ."""

    @property
    def theta(self) -> Tensor:
        """(n,) the model's own parameters."""

    @property
    def examples(self) -> int:
        """Examples in all batches together, those of all processes."""

    @property
    def local_examples(self) -> int:
        """Examples in the batches of this process."""

    @property
    def weight(self) -> float:
        """Σ_b W_b, over all processes."""

    def running(self) -> AbstractContextManager[None]:
        """The model in the objective's mode."""

    def batch_loss(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """ℓ_b at `parameters`, a scalar."""

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """∇L(θ), (n,)."""

    def leaves(self, point: Tensor) -> dict[str, Tensor]:
        """Parameters at θ = `point` as leaves to differentiate with respect to."""

    def reduce(self, total: Tensor) -> Tensor:
        """The sum of `total` over all processes, in place."""

    def record(self, *, forward: int = 0, gradient: int = 0, hessian: int = 0) -> None:
        """Count work, in examples."""

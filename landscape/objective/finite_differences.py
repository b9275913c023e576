r"""Hessian–vector products from differences of gradients: for models that automatic second derivatives do not reach.

    D_h = (∇L(θ + h v) − ∇L(θ − h v)) / 2h = H v + O(h²),    error ≲ ‖D_2h − D_h‖

The estimate is three times the truncation error and of the size of the rounding. Networks with kinks (ReLU) have no h
at which this converges: there D_h averages over the kinks crossed, and the error estimate stays large. Never used
unasked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.objective.loss_of_theta import LossOfTheta
from landscape.objective.operators import LinearOperator


class FiniteDifferenceHessian(LinearOperator):
    """∇²L at θ, approximately; `relative_error` is the largest estimated so far. Cost of a product: four gradients.

    The step is h = (ε (1 + ‖θ‖))^{1/3}/‖v‖ with ε the rounding unit of θ, which balances truncation and rounding.
    """

    def __init__(self, objective: LossOfTheta, theta: Tensor) -> None:
        super().__init__(objective.size, objective.dtype, objective.device)
        self._objective, self._theta = objective, theta
        self._step = float(torch.finfo(objective.dtype).eps * (1 + torch.linalg.vector_norm(theta))) ** (1 / 3)
        self._error = torch.zeros((), dtype=objective.dtype, device=objective.device)

    @property
    def way(self) -> str:
        """How products are formed."""
        return "finite differences"

    @property
    def relative_error(self) -> float:
        """‖D_2h − D_h‖/‖D_h‖, the largest over the products so far."""
        return float(self._error)

    def _multiply(self, block: Tensor) -> Tensor:
        columns = []
        for v in block.T:
            length = torch.linalg.vector_norm(v)
            unit = torch.where(length > 0, v / length, v)
            near, far = (self._difference(unit, scale * self._step) for scale in (1, 2))
            change = torch.linalg.vector_norm(far - near)
            relative = torch.where(change > 0, change / torch.linalg.vector_norm(near), change)
            self._error = torch.maximum(self._error, relative)
            columns.append(near * length)
            self._objective.record(hessian=self._objective.local_examples)
        return torch.stack(columns, dim=1)

    def _difference(self, unit: Tensor, step: float) -> Tensor:
        ahead, behind = (self._objective.gradient(self._theta + sign * step * unit) for sign in (1, -1))
        return (ahead - behind) / (2 * step)

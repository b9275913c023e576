r"""Values and gradients of an objective, as sums over its batches: Σ_b W_b ℓ_b / Σ_b W_b, in float64 where there is one."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.objective.determinism import examine, require_deterministic
from landscape.objective.loss_of_theta import LossOfTheta


def point_of(objective: LossOfTheta, theta: Tensor | None, *, rows: bool = False) -> Tensor:
    """θ as rows (1, n), or (k, n) if `rows` says that it may be several; the model's own parameters for None."""
    if theta is None:
        return objective.theta[None]
    size = objective.size
    if theta.shape[-1:] != (size,) or theta.ndim > (2 if rows else 1):
        raise ValueError(
            f"expected theta of shape ({size},){f' or (k, {size})' if rows else ''}, got {tuple(theta.shape)}; "
            "was it flattened from another model?"
        )
    return theta.detach().to(device=objective.device, dtype=objective.dtype).reshape(-1, size)


def checked_point(objective: LossOfTheta, theta: Tensor | None) -> Tensor:
    """θ (n,) for a curvature operator, after one test a model that the loss is one function of it."""
    point = point_of(objective, theta)[0]
    examine(objective)
    if not objective.function.deterministic:
        require_deterministic(objective, point)
        objective.function.deterministic = True
    return point


def losses_at(objective: LossOfTheta, points: Tensor) -> Tensor:
    """L at each of the rows of `points`, (k,), in one walk over the data."""
    examine(objective)
    totals = torch.zeros(points.shape[0], dtype=accumulator(objective.device), device=objective.device)
    with torch.no_grad(), objective.running():
        unflattened = [objective.space.unflatten(point) for point in points]
        for batch in objective.batches.walk():
            for row, parameters in enumerate(unflattened):
                totals[row] += batch.weight * objective.batch_loss(parameters, batch)
            objective.record(forward=batch.examples * len(unflattened))
    values = objective.reduce(totals) / objective.weight
    return values.to(torch.promote_types(objective.dtype, torch.float32))


def gradient_at(objective: LossOfTheta, point: Tensor) -> Tensor:
    """∇L at `point`, (n,)."""
    examine(objective)
    total = torch.zeros_like(point)
    with objective.running():
        for batch in objective.batches.walk():
            blocks = objective.function.batch_gradient(objective.leaves(point), batch)
            total += (batch.weight / objective.weight) * objective.space.flatten(blocks)
            objective.record(gradient=batch.examples)
    return objective.reduce(total)


def accumulator(device: torch.device) -> torch.dtype:
    """The dtype that losses of many batches are added up in."""
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


def require_finite(values: Tensor, loss: str) -> Tensor:
    """`values` themselves; `FloatingPointError` for NaN or Inf among them, at the model's own parameters."""
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError(
            f"the loss {loss} or its gradient is not finite at the model's parameters; "
            "has training diverged, or does the data hold NaN or Inf?"
        )
    return values

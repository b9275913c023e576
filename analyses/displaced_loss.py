r"""The loss at many displaced points, L(θ + Σ_j c_j d_j), in few passes over the data."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.objective import Objective

# Parameters of displaced models held at once: 128 MiB in float32. Small models are evaluated many at a time.
NUMBERS_AT_ONCE = 2**25


def displaced_loss(objective: Objective, coefficients: Tensor, basis: Tensor) -> Tensor:
    """L(θ + c @ basis) for each row c of `coefficients` (p, m), with `basis` (m, n); returns (p,).

    Every point goes through the same arithmetic, θ itself (a row of zeros) included, so that differences between the
    returned values are differences of the loss and not of two ways to compute it. Cost: p evaluations of the loss, as
    ⌈p / ⌊2²⁵ / n⌋⌉ passes over the data.
    """
    theta = objective.theta
    rows = max(1, NUMBERS_AT_ONCE // objective.size)
    return torch.cat([objective(theta + chunk @ basis) for chunk in coefficients.to(theta).split(rows)])

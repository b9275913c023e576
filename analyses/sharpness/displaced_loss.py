r"""The loss at many displaced points, L(θ + Σ_j c_j d_j), in few passes over the data."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from landscape.objective.objective import Objective

# Parameters of displaced models held at once: 128 MiB in float32. Small models are evaluated many at a time.
NUMBERS_AT_ONCE = 2**25
POINTS_AT_ONCE = 64  # between two looks at the progress bar


def displaced_loss(objective: Objective, coefficients: Tensor, basis: Tensor) -> Tensor:
    """L(θ + c @ basis) for each row c of `coefficients` (p, m), with `basis` (m, n); returns (p,).

    Every point goes through the same arithmetic, θ itself (a row of zeros) included, so that differences between the
    returned values are differences of the loss and not of two ways to compute it. Cost: p evaluations of the loss, in
    ⌈p / min(64, 2²⁵ / n)⌉ walks over the data.
    """
    theta = objective.theta
    rows = max(1, min(POINTS_AT_ONCE, NUMBERS_AT_ONCE // objective.size))
    losses = []
    with tqdm(total=len(coefficients), desc="loss", unit=" points", delay=2, disable=None) as bar:
        for chunk in coefficients.to(theta).split(rows):
            losses.append(objective(theta + chunk @ basis))
            bar.update(len(chunk))
    return torch.cat(losses)

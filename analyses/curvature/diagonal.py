r"""The diagonal of the Hessian, entry by entry, and what each parameter tensor contributes to the trace.

    diag A = E z ⊙ Az,   Var (z ⊙ Az)_i = Σ_{j≠i} A_ij²       for z of independent signs

Reference: Bekas, Kokiopoulou and Saad (2007); with signs their normalisation by Σ z ⊙ z is exactly the number of
samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from torch import Tensor

from analyses import figures
from analyses.curvature.matrix import Matrix, curvature_matrix
from analyses.curvature.spectrum import CURVATURE
from analyses.estimators.estimate import LEAST_SAMPLES, Stop, check_square, progress, require_finite
from analyses.estimators.probe_vectors import rademacher, working_dtype
from analyses.krylov.scaled_operator import ScaledOperator
from analyses.registry import analysis
from landscape.objective.objective import Objective
from optimizers.ground.signatures import Seed, at_least


@dataclass(frozen=True)
class DiagonalEstimate:
    """diag A with a standard error for each entry, and for sums over consecutive blocks of it."""

    diagonal: Tensor  # (n,)
    stderr: Tensor  # (n,)
    blocks: Tensor  # (b,) sums of the diagonal over each block
    block_stderr: Tensor  # (b,)
    products: int
    converged: bool


def estimate_diagonal(
    A: Any,
    *,
    sizes: tuple[int, ...] | None = None,
    rtol: float = 0.1,
    max_products: int = 200,
    generator: torch.Generator | None = None,
) -> DiagonalEstimate:
    """diag A until ‖standard errors‖₂ ≤ rtol · ‖diag A‖₂, at least 32 and at most `max_products` products.

    `A`: anything symmetric with `.shape` and `@`. `sizes` cut the diagonal into consecutive blocks (default: one),
    whose sums are estimated too; their errors are measured, not added up, since the entries' errors are correlated.
    Memory: 4 vectors.

    Raises ValueError for a matrix that is not square, sizes that do not add up to n, or a meaningless tolerance.
    """
    n = check_square(A)
    sizes = (n,) if sizes is None else sizes
    A = ScaledOperator(A)
    stop = Stop(rtol, 0.0, max_products, A)
    if sum(sizes) != n:
        raise ValueError(f"sizes: expected block sizes that add up to n = {n}; got a sum of {sum(sizes)}")
    generator = generator or torch.Generator().manual_seed(0)
    mean = squares = torch.zeros(n, dtype=working_dtype(A), device=getattr(A, "device", "cpu"))
    sums: list[Tensor] = []
    converged = False
    with progress("diagonal", max_products) as bar:
        for count in range(1, max_products + 1):
            z = rademacher(A, 1, generator)[:, 0]
            sample = z * (A @ z)
            bar.update()
            # Welford's update: no cancellation of large squares.
            change = sample - mean
            mean = mean + change / count
            squares = squares + change * (sample - mean)
            sums.append(torch.stack([block.sum() for block in sample.split(sizes)]))
            if count >= LEAST_SAMPLES and count % 8 == 0:  # one look from the host every eight products
                error = (squares.sum() / (count - 1) / count).sqrt()
                converged = stop.met(float(torch.linalg.vector_norm(mean)), float(error))
                if converged:
                    break
    require_finite(mean)
    stacked = torch.stack(sums).cpu().double()
    unknown = torch.full_like(mean, torch.nan)
    return DiagonalEstimate(
        diagonal=A.scale * mean,
        stderr=A.scale * (squares / (count - 1) / count).sqrt() if count > 1 else unknown,
        blocks=A.scale * stacked.mean(0),
        block_stderr=A.scale * stacked.std(0) / count**0.5 if count > 1 else torch.full_like(stacked[0], torch.nan),
        products=count,
        converged=converged,
    )


@analysis(
    cost="a Hessian product per sample, 32 to max_products",
    reference="Bekas, Kokiopoulou and Saad (2007)",
    data_parallel=True,
)
def diagonal(
    objective: Objective,
    *,
    matrix: Matrix = "hessian",
    rtol: Annotated[float, at_least(0)] = 0.1,
    max_products: Annotated[int, at_least(1)] = 200,
    seed: Seed = 0,
) -> xr.Dataset:
    r"""The diagonal of a curvature matrix, and its sum over each parameter tensor, with standard errors.

    `matrix`: the Hessian (∂²L/∂θ_i²), the generalized Gauss–Newton (`ggn`) or the true Fisher matrix (`fisher`).
    Sampling stops when the standard errors together are at most `rtol` of the diagonal (both in the L2 norm), or after
    `max_products` Hessian products; `converged` says which. Returns `diagonal` (coordinate), in the order of the flat
    θ, and by parameter tensor `block_trace` and `block_mean` (block), each with `…_stderr`.

    BatchNorm is in the objective's mode; weight decay is not included. Raises ValueError for a meaningless tolerance.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        matrix: hessian, ggn (generalized Gauss–Newton) or fisher (of the model's own predictions).
        rtol: Sampling stops at a standard error of so much of the estimate.
        max_products: Sampling stops after so many Hessian products.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    space = objective.space
    found = estimate_diagonal(
        curvature_matrix(objective, matrix),
        sizes=space.sizes,
        rtol=rtol,
        max_products=max_products,
        generator=torch.Generator().manual_seed(seed),
    )
    size = np.asarray(space.sizes, dtype=float)
    dataset = xr.Dataset(
        coords={"block": list(space.names)},
        attrs={"matrix": matrix, "converged": found.converged, "products": found.products},
    )
    variables = {
        "diagonal": ("coordinate", found.diagonal, found.stderr, 1.0, "diagonal entry"),
        "block_trace": ("block", found.blocks, found.block_stderr, 1.0, "trace of the block"),
        "block_mean": ("block", found.blocks, found.block_stderr, size, "mean diagonal entry"),
    }
    for name, (dim, value, stderr, divisor, long_name) in variables.items():
        described = {"units": CURVATURE, "long_name": long_name}
        dataset[name] = (dim, value.cpu().double().numpy() / divisor, described)
        described = {"units": CURVATURE, "long_name": f"standard error of the {long_name}"}
        dataset[f"{name}_stderr"] = (dim, stderr.cpu().double().numpy() / divisor, described)
    return dataset


@diagonal.figure
def plot_diagonal(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The mean second derivative of each parameter tensor, with error bars of one standard error."""
    with figures.axes(ax) as ax:
        mean, error = figures.over_seeds(dataset, "block_mean", "block_mean_stderr")
        places = np.arange(dataset.sizes["block"])[::-1]
        ax.errorbar(mean, places, xerr=error, linestyle="none", marker="o")
        ax.set_yticks(places, [str(name) for name in dataset.block.values])
        ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_xlabel(figures.label(dataset.block_mean))
        return ax

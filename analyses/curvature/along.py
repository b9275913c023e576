r"""The curvature of the loss along given directions, dᵀ H d / ‖d‖²: one Hessian product each.

Along a random direction its mean is tr H / n. MSAM's argument (Becker et al. 2024, appendix A.1) asks that the
curvature along the momentum exceed that; both are here with their uncertainty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from matplotlib.axes import Axes
from torch import Tensor

from analyses import figures
from analyses.curvature.matrix import Matrix, curvature_matrix
from analyses.curvature.spectrum import CURVATURE
from analyses.directions.named import choose, vector
from analyses.estimators import spread
from analyses.registry import analysis
from landscape.objective.directions import like
from landscape.objective.objective import Objective
from optimizers.ground.magnitude import magnitude
from optimizers.ground.signatures import Seed

KINDS = ("gradient", "momentum", "random", "eigenvector")


def curvature(A: Any, directions: Tensor) -> Tensor:
    """dᵀAd/‖d‖² for each column d of `directions` (n, k): (k,). NaN for a column of zeros. Cost: k products."""
    scaled = directions / magnitude(directions, 0)
    return (scaled * (A @ scaled)).sum(0) / (scaled**2).sum(0)


@analysis(
    cost="1 gradient, 1 Hessian product per direction",
    reference="Becker, Altrock and Risse (2024), Fig. A.8",
    data_parallel=True,
)
def curvature_along(
    objective: Objective,
    *,
    matrix: Matrix = "hessian",
    directions: Sequence[str] | None = None,
    momentum: Tensor | None = None,
    samples: int = 10,
    seed: Seed = 0,
) -> xr.Dataset:
    r"""The curvature d̂ᵀ H d̂ along the gradient, the momentum and random unit directions.

    H is the Hessian, or by `matrix` the generalized Gauss–Newton (`ggn`) or true Fisher matrix (`fisher`).
    `directions` among `gradient`, `momentum`, `random` and `eigenvector`; by default the first three, momentum only
    where there is one that is not zero (the attribute `left_out` says so). `random` is the mean over `samples`
    directions uniform on the sphere, an estimate of tr H / n, with the standard error over them; the others are exact,
    with standard error zero, or NaN where the data are a part of a larger set.

    Returns `curvature` and `curvature_stderr` (direction) and `sample_curvature` (sample) of the random ones. BatchNorm
    is in the objective's mode; weight decay is not included. Cost: one Hessian product for each direction and sample.

    Raises ValueError for an unknown direction, a momentum that is asked for and missing, zero or of another size than
    θ, fewer than one sample, and a gradient that is zero.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        matrix: hessian, ggn (generalized Gauss–Newton) or fisher (of the model's own predictions).
        directions: Which directions, by name, as listed above; the default ones if left out.
        momentum: The optimizer, a mapping by name or a vector; a checkpoint brings its own.
        samples: Random directions averaged over.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    if momentum is not None:
        momentum = like(objective.theta, momentum, "momentum")
    if samples < 1:
        raise ValueError(f"samples: expected at least 1; got {samples}")
    chosen, left_out = choose(directions, momentum, known=KINDS, default=("gradient", "momentum", "random"))

    operator = curvature_matrix(objective, matrix)
    generator = torch.Generator().manual_seed(seed)
    mean, stderr = {}, {}
    drawn = torch.empty(0)
    for name in chosen:
        count = samples if name == "random" else 1
        values = torch.cat(
            [curvature(operator, vector(name, objective, momentum, generator)[:, None]) for _ in range(count)]
        )
        values = values.cpu().double()
        mean[name] = float(values.mean())
        if count > 1:
            stderr[name] = float(spread.deviation(values.numpy())) / count**0.5
        else:  # exact, but neither for one draw of several nor for a part of the data
            stderr[name] = float("nan") if name == "random" or objective.partial else 0.0
        drawn = values if name == "random" else drawn
    described = {"units": CURVATURE, "long_name": "curvature along the direction"}
    return xr.Dataset(
        {
            "curvature": ("direction", list(mean.values()), described),
            "curvature_stderr": ("direction", list(stderr.values()), {**described, "long_name": "standard error"}),
            "sample_curvature": (
                "sample",
                drawn.numpy(),
                {**described, "long_name": "curvature along each random direction"},
            ),
        },
        coords={"direction": list(mean)},
        attrs=left_out,
    )


@curvature_along.figure
def plot_curvature_along(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The curvature along each direction: a line over `step` where there is one, else a marker with its error bar."""
    with figures.axes(ax) as ax:
        along = {str(name): dataset.sel(direction=name) for name in dataset.direction.values}
        figures.compare(along, "curvature", "curvature_stderr", x="step", ax=ax)
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_ylabel(f"curvature [{CURVATURE}]")
        figures.legend(ax)
        return ax


def compare_curvature_along(
    datasets: Mapping[str, xr.Dataset], ax: Axes | None = None, *, direction: str = "momentum"
) -> Axes:
    """The curvature along one direction: a line for each method over `step`, or a marker where there is one step."""
    with figures.axes(ax) as ax:
        figures.compare(datasets, "curvature", "curvature_stderr", x="step", ax=ax, direction=direction)
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_ylabel(f"curvature along {direction} [{CURVATURE}]")
        figures.legend(ax)
        return ax

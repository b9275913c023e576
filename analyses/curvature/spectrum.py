r"""The ends of the Hessian's spectrum: where the loss curves most, and where it curves down.

    H v_i = λ_i v_i,    H = ∇²L(θ), the mean over the objective's examples

Every eigenvalue comes with its residual ‖H v − λ v‖ and with bounds on its error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analyses import figures
from analyses.curvature import backends as eigenvalue_backends
from analyses.curvature.matrix import Matrix, curvature_matrix
from analyses.krylov.eigenpairs import Eigenpairs, measured
from analyses.krylov.lanczos import lanczos
from analyses.krylov.spectrum_end import Which
from analyses.krylov.unseen import UNSEEN
from analyses.registry import analysis
from landscape.objective.objective import Objective
from optimizers.ground.signatures import Seed, at_least, more_than

CURVATURE = "loss/‖θ‖₂²"


@analysis(cost="measured: 8 to 19 Hessian products for k = 1, 17 to 33 for k = 5", reference="Lanczos 1950; Wu and Simon (2000)", data_parallel=True)
def top_eigenvalues(
    objective: Objective,
    *,
    k: Annotated[int, at_least(1)] = 5,
    which: Which = "LA",
    tol: Annotated[float, more_than(0)] = 1e-3,
    matrix: Matrix = "hessian",
    parameters: str | None = None,
    backend: Literal["lanczos", "scipy", "pyhessian"] = "lanczos",
    max_basis: Annotated[int, at_least(3)] | None = None,
    multiplicity: bool = False,
    seed: Seed = 0,
) -> xr.Dataset:
    r"""The k eigenvalues of the Hessian at one end of its spectrum, each with its residual and error bounds.

    `matrix`: hessian, ggn (generalized Gauss–Newton) or fisher (of the model's own predictions). `parameters`: the
    block of these alone, by name, module prefix or shell pattern ("layer1", "*.bias").
    `which`: LA largest, SA smallest (most negative), LM largest in magnitude, BE from both ends in turn. Every pair
    meets ‖H v − λ v‖ ≤ tol·|λ|, or `converged` says that it does not. `eigenvalue`, `residual`, `error_bound`
    (certain: an eigenvalue lies that close) and `gap_bound` (sharper, ‖r‖²/gap; holds if none hides in the gap), (k,)
    each, in units of loss per squared parameter. `max_basis` bounds the memory; `multiplicity` looks for repeated
    eigenvalues; `seed` draws the starting vector. The probability that a distinct one was overlooked, the attribute
    `unseen_distinct`, is below 1e-4, or NaN where it is not known (after a restart); of copies of one found it says
    nothing.

    BatchNorm is in the objective's mode; weight decay is not included. Cost: attribute `matvecs` Hessian products, of
    some 2 to 4 gradients each. Raises ValueError for k > n and for an unknown backend or end; the other backends are
    second opinions (`analyses.curvature.backends` says what they cannot do).
    """
    if backend == "pyhessian" and (matrix != "hessian" or parameters is not None):
        raise ValueError('backend="pyhessian" takes the Hessian of all parameters only; use backend="lanczos"')
    if parameters is not None:
        objective = objective.restricted(parameters)
    hessian = curvature_matrix(objective, matrix)
    if backend == "lanczos":
        generator = torch.Generator().manual_seed(seed)
        found = lanczos(
            hessian,
            k,
            which=which,
            tol=tol,
            max_basis=max_basis,
            multiplicity=multiplicity,
            unseen_distinct=UNSEEN,
            generator=generator,
        )
    elif backend == "scipy":
        other = eigenvalue_backends.eigsh(hessian, k, which=which, tol=tol, max_basis=max_basis, seed=seed)
        found = measured(hessian, other.vectors, which, tol, other.products, other.message)
    elif backend == "pyhessian":
        if which != "LM":
            raise ValueError(
                f'backend="pyhessian" finds the largest magnitudes only: expected which="LM", got {which!r}'
            )
        other = eigenvalue_backends.pyhessian(objective, k, tol=tol, seed=seed)
        found = measured(hessian, other.vectors, which, tol, other.products, other.message)
    else:
        raise ValueError(f"expected backend lanczos, scipy or pyhessian, got {backend!r}")
    return dataset_of(found).assign_attrs(way=hessian.way)


@analysis(
    cost="measured: 57 to 80 Hessian products for k = 5",
    reference="Sagun et al. (2017); Foret et al. (2021), Fig. 3",
    data_parallel=True,
)
def hessian_spectrum(
    objective: Objective,
    *,
    k: Annotated[int, at_least(1)] = 5,
    smallest: Annotated[int, at_least(0)] = 1,
    tol: Annotated[float, more_than(0)] = 1e-3,
    max_basis: Annotated[int, at_least(3)] | None = None,
    seed: Seed = 0,
) -> xr.Dataset:
    r"""Both ends of the Hessian's spectrum: how sharp the sharpest directions are, how spread, and how negative it gets.

    The `k` largest eigenvalues (`eigenvalue`, with `residual` and bounds as in `top_eigenvalues`), the `smallest` most
    negative ones (`smallest_eigenvalue`, `smallest_error_bound`), and `lambda_max`, `lambda_min`, `spread` λ₁/λ_k and
    `negative_ratio` −λ_min/λ_max (0 where nothing is negative; the share of the whole spectrum that is negative is
    `negative_share` of `spectral_density`). Data, mode and errors as in `top_eigenvalues`. Cost:
    attribute `matvecs` Hessian products.
    """
    hessian = objective.hessian()
    options: dict[str, Any] = {"tol": tol, "max_basis": max_basis, "unseen_distinct": UNSEEN}
    top = lanczos(hessian, k, generator=torch.Generator().manual_seed(seed), **options)
    bottom = lanczos(hessian, smallest, which="SA", generator=torch.Generator().manual_seed(seed), **options)
    dataset = dataset_of(top)
    values, lowest = top.values.numpy(), float(bottom.values[0])
    curvature = {"units": CURVATURE}
    dataset["smallest_eigenvalue"] = ("j", bottom.values.numpy(), {**curvature, "long_name": "smallest eigenvalue"})
    dataset["smallest_error_bound"] = ("j", bottom.error_bounds.numpy(), curvature)
    dataset["lambda_max"] = ((), values[0], {**curvature, "long_name": "largest Hessian eigenvalue"})
    dataset["lambda_min"] = ((), lowest, {**curvature, "long_name": "smallest Hessian eigenvalue"})
    dataset["spread"] = ((), values[0] / values[-1] if values[-1] else np.nan, {"units": "1"})
    dataset["negative_ratio"] = ((), max(-lowest, 0.0) / values[0] if values[0] > 0 else np.nan, {"units": "1"})
    dataset.attrs["matvecs"] += bottom.matvecs
    dataset.attrs["unseen_distinct"] = float(np.maximum(top.unseen_distinct, bottom.unseen_distinct))
    dataset.attrs["converged"] = top.converged and bottom.converged
    dataset.attrs["message"] = top.message if not top.converged else bottom.message
    return dataset.assign_coords(j=np.arange(1, smallest + 1))


def dataset_of(found: Eigenpairs) -> xr.Dataset:
    """Eigenpairs as a Dataset over k = 1 … k, without their vectors."""
    described = {
        "eigenvalue": (found.values, CURVATURE, "Hessian eigenvalue"),
        "residual": (found.residuals, CURVATURE, "residual norm ‖Hv − λv‖"),
        "error_bound": (found.error_bounds, CURVATURE, "bound on the eigenvalue's error"),
        "gap_bound": (found.gap_bounds, CURVATURE, "bound by the gap on the eigenvalue's error"),
        "converged": (found.converged_pairs.to(torch.int8), "1", "residual within the tolerance"),
    }
    return xr.Dataset(
        {
            name: ("k", values.numpy(), {"units": units, "long_name": long_name})
            for name, (values, units, long_name) in described.items()
        },
        coords={"k": np.arange(1, len(found.values) + 1)},
        attrs={
            "matvecs": found.matvecs,
            "verification_matvecs": found.verification_matvecs,
            "restarts": found.restarts,
            "unseen_distinct": found.unseen_distinct,
            "converged": found.converged,
            "message": found.message,
        },
    )


@top_eigenvalues.figure
def plot_top_eigenvalues(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The eigenvalues in order with their error bounds; over the dimension `step`, a line for each."""
    with figures.axes(ax) as ax:
        mean, error = figures.over_seeds(dataset, "eigenvalue", "error_bound")
        if "step" in mean.dims:
            for index in mean.k.values:
                spread = None if error is None else error.sel(k=index)
                figures.band(ax, mean.step, mean.sel(k=index), spread, rf"$\lambda_{{{index}}}$")
            ax.set_xlabel("training step")
            figures.legend(ax)
        else:
            figures.points(ax, mean.k, mean, error, marker="o")
            ax.set_xlabel("index of the eigenvalue")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylabel(figures.label(dataset.eigenvalue))
        return ax


@hessian_spectrum.figure
def plot_hessian_spectrum(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The largest eigenvalues in order and, below zero where they are negative, the smallest."""
    with figures.axes(ax) as ax:
        for name, index, text in (("eigenvalue", "k", "largest"), ("smallest_eigenvalue", "j", "smallest")):
            bound = "error_bound" if name == "eigenvalue" else "smallest_error_bound"
            mean, error = figures.over_seeds(dataset, name, bound)
            if "step" in mean.dims:
                first = mean.isel({index: 0})
                figures.band(ax, mean.step, first, None if error is None else error.isel({index: 0}), text)
            else:
                figures.points(ax, mean[index], mean, error, text, marker="o" if index == "k" else "s")
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_xlabel("training step" if "step" in dataset.eigenvalue.dims else "index of the eigenvalue")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylabel(figures.label(dataset.eigenvalue))
        figures.legend(ax)
        return ax


def compare_top_eigenvalues(datasets: Mapping[str, xr.Dataset], ax: Axes | None = None) -> Axes:
    """λ₁ over `step`, a line for each method; for one checkpoint each, their eigenvalues in order."""
    with figures.axes(ax) as ax:
        first = next(iter(datasets.values()))
        if "step" in first.eigenvalue.dims:
            figures.compare(datasets, "eigenvalue", "error_bound", x="step", ax=ax, k=first.k.values[0])
            ax.set_ylabel(f"largest {figures.label(first.eigenvalue)}")
        else:
            figures.compare(datasets, "eigenvalue", "error_bound", x="k", ax=ax)
            ax.set_xlabel("index of the eigenvalue")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_ylabel(figures.label(first.eigenvalue))
        figures.legend(ax)
        return ax

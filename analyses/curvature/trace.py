r"""The trace of the Hessian or a relative of it, n times its mean eigenvalue, and its Frobenius norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
import xarray as xr
from matplotlib.axes import Axes

from analyses import figures
from analyses.curvature.matrix import TITLES, Matrix, curvature_matrix
from analyses.curvature.spectrum import CURVATURE
from analyses.estimators.estimate import TraceEstimate
from analyses.estimators.hutch_plus_plus import hutch_plus_plus
from analyses.estimators.hutchinson import hutchinson
from analyses.estimators.xtrace import xtrace
from analyses.registry import analysis
from landscape.objective.objective import Objective
from optimizers.ground.signatures import Seed, at_least

Method = Literal["hutchinson", "hutch++", "xtrace"]
METHODS: dict[str, Callable[..., TraceEstimate]] = {
    "hutchinson": hutchinson,
    "hutch++": hutch_plus_plus,
    "xtrace": xtrace,
}


def estimate_trace(A: Any, method: Method = "hutchinson", **options: Any) -> TraceEstimate:
    """tr A and ‖A‖_F of anything symmetric with `.shape` and `@`, by the estimator called `method`.

    `options` are those of `hutchinson`, `hutch_plus_plus` and `xtrace`. An unknown method is a ValueError.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    return METHODS[method](A, **options)


@analysis(
    cost="a Hessian product per sample, until the standard error is small enough",
    reference="Hutchinson (1990); Meyer et al. (2021); Epperly, Tropp and Webber (2024)",
    data_parallel=True,
)
def trace(
    objective: Objective,
    *,
    matrix: Matrix = "hessian",
    method: Method = "hutchinson",
    rtol: Annotated[float, at_least(0)] = 0.05,
    atol: Annotated[float, at_least(0)] = 0.0,
    max_products: Annotated[int, at_least(1)] = 500,
    seed: Seed = 0,
) -> xr.Dataset:
    r"""The trace Σλ of a curvature matrix and its Frobenius norm √(Σλ²), each with its standard error.

    `matrix`: the Hessian, the generalized Gauss–Newton (`ggn`) or the true Fisher matrix (`fisher`). Sampling stops
    when the *standard error* of the trace is at most max(`atol`, `rtol`·|trace|), or after `max_products` Hessian
    products; `converged` says which. Methods: `hutchinson`, to be preferred on flat spectra; `hutch++` and `xtrace`,
    which take the large eigenvalues out first and gain where few of them carry the trace.

    Returns `trace`, `frobenius` and `mean_eigenvalue` with `…_stderr`, and the course of the estimate: `running`,
    `running_stderr` (products). The probes are drawn from `seed`. BatchNorm is in the objective's mode; weight decay is
    not included.

    Raises ValueError for an unknown method or a tolerance or budget that makes no sense.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        matrix: hessian, ggn (generalized Gauss–Newton) or fisher (of the model's own predictions).
        method: hutchinson for flat spectra; hutch++ or xtrace where few eigenvalues carry the trace.
        rtol: Sampling stops at a standard error of so much of the estimate.
        atol: Or at a standard error so small, in the trace's own unit.
        max_products: Sampling stops after so many Hessian products.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    found = estimate_trace(
        curvature_matrix(objective, matrix),
        method,
        rtol=rtol,
        atol=atol,
        max_products=max_products,
        generator=torch.Generator().manual_seed(seed),
    )
    n = objective.size
    products, running, errors = zip(*found.history, strict=True)
    scalars = {
        "trace": (found.trace, found.stderr, f"trace of the {TITLES[matrix]}"),
        "frobenius": (found.frobenius, found.frobenius_stderr, f"Frobenius norm of the {TITLES[matrix]}"),
        "mean_eigenvalue": (found.trace / n, found.stderr / n, f"mean eigenvalue of the {TITLES[matrix]}"),
    }
    dataset = xr.Dataset(
        coords={"products": ("products", list(products), {"units": "1", "long_name": "Hessian products"})},
        attrs={"samples": found.samples, "converged": found.converged, "matrix": matrix, "method": method},
    )
    for name, (value, stderr, long_name) in scalars.items():
        dataset[name] = ((), value, {"units": CURVATURE, "long_name": long_name})
        dataset[f"{name}_stderr"] = (
            (),
            stderr,
            {"units": CURVATURE, "long_name": f"standard error of the {long_name}"},
        )
    described = {"units": CURVATURE, "long_name": "running estimate of the trace"}
    dataset["running"] = ("products", list(running), described)
    dataset["running_stderr"] = ("products", list(errors), {**described, "long_name": "its standard error"})
    return dataset


@trace.figure
def plot_trace(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The estimate against the products it cost, with its standard error; over `step`, the trace along training."""
    with figures.axes(ax) as ax:
        if "step" in dataset.trace.dims:
            mean, error = figures.over_seeds(dataset, "trace", "trace_stderr")
            figures.band(ax, mean.step, mean, error)
            ax.set_xlabel("training step")
        else:
            mean, error = figures.over_seeds(dataset, "running", "running_stderr")
            figures.band(ax, dataset["products"], mean, error)
            ax.set_xlabel("Hessian products")
        ax.set_ylabel(figures.label(dataset.trace))
        return ax


def compare_trace(datasets: Mapping[str, xr.Dataset], ax: Axes | None = None) -> Axes:
    """The trace: a line for each method over `step`, or a marker where there is one step."""
    with figures.axes(ax) as ax:
        figures.compare(datasets, "trace", "trace_stderr", x="step", ax=ax)
        ax.set_ylabel(figures.label(next(iter(datasets.values())).trace))
        figures.legend(ax)
        return ax

r"""The whole spectrum at a glance: the density of the Hessian's eigenvalues, broadened, with error bars.

    φ(t) = (1/n) Σ_i N(t; λ_i, σ²)

The few eigenvalues of largest magnitude are computed one by one and stand apart; the density is that of the others, by
stochastic Lanczos quadrature on their complement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes

from analyses import figures
from analyses.curvature.matrix import TITLES, Matrix, curvature_matrix
from analyses.curvature.spectrum import CURVATURE
from analyses.estimators.quadrature import Quadrature, lanczos_quadrature, mean_and_stderr
from analyses.krylov.lanczos import lanczos
from analyses.registry import analysis
from landscape.objective.objective import Objective
from optimizers.ground.signatures import Seed, at_least, more_than


@analysis(
    cost="probes × nodes Hessian products, and some 3 per outlier",
    reference="Ghorbani, Krishnan and Xiao (2019); Ubaru, Chen and Saad (2017)",
    data_parallel=True,
)
def spectral_density(
    objective: Objective,
    *,
    matrix: Matrix = "hessian",
    probes: Annotated[int, at_least(1)] = 10,
    nodes: Annotated[int, at_least(1)] = 64,
    outliers: Annotated[int, at_least(0)] = 10,
    width: float | None = None,
    interval: tuple[float, float] | None = None,
    points: Annotated[int, at_least(2)] = 400,
    alpha: Sequence[Annotated[float, more_than(0)]] = (0.01, 0.1, 1.0),
    seed: Seed = 0,
) -> xr.Dataset:
    r"""The density of a curvature matrix's eigenvalues with error bars, and what sums over the spectrum say.

    `matrix`: the Hessian, the generalized Gauss–Newton (`ggn`) or the true Fisher matrix (`fisher`).

    - `density` (eigenvalue) φ(t) of all eigenvalues but the `outliers` ones of largest magnitude, as a fraction of all
      n per unit of curvature, each broadened by a Gaussian of standard deviation `width` (default: the narrowest that
      `nodes` quadrature nodes resolve; attribute `width`), on `points` points over `interval` (default: all of it);
    - `outlier` (index) with `outlier_bound`, how far the true eigenvalue may be;
    - `trace` Σλ; `negative_share` Σ_{λ<0}|λ| / Σ|λ|, the fraction of the curvature that is negative;
    - `effective_dimension` (alpha) Σ λ₊/(λ₊ + α), the number of directions curved more than α (MacKay 1992; negative
      eigenvalues count zero).

    Each but the outliers has a standard error over the probes, `…_stderr`; with few probes the error follows Student's
    t with `probes` − 1 degrees of freedom. The standard error does not know the error of the quadrature, which is small
    for what varies slowly over `width`: α should not be far below it.

    BatchNorm is in the objective's mode; weight decay is not included. Cost: `products` Hessian products, probes ×
    nodes and about 3 per outlier. Memory: nodes + outliers vectors.

    Raises ValueError for fewer than one probe or step, as many outliers as parameters, or a width that is not positive.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        matrix: hessian, ggn (generalized Gauss–Newton) or fisher (of the model's own predictions).
        probes: Random vectors averaged over.
        nodes: Quadrature nodes of each probe: the finer, the more.
        outliers: How many eigenvalues of largest magnitude are taken out first.
        width: Standard deviation of the broadening; the narrowest that the nodes resolve if left out.
        interval: From where to where; all of the spectrum if left out.
        points: Points of the grid, on each axis.
        alpha: Curvatures at which the effective dimension is computed.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    if width is not None and not width > 0:
        raise ValueError(f"width: expected a positive standard deviation; got {width}")
    if not 0 <= outliers < objective.size:
        raise ValueError(f"outliers: expected 0 to n − 1 = {objective.size - 1}; got {outliers}")
    operator = curvature_matrix(objective, matrix)
    generator = torch.Generator().manual_seed(seed)
    values, bounds, known, products = np.empty(0), np.empty(0), None, 0
    if outliers:
        # An eigenvector's error enters its complement's eigenvalues squared: 1e-3 is 1e-6 of the outlier there.
        found = lanczos(operator, outliers, which="LM", tol=1e-3, generator=generator)
        values, bounds, known = found.values.numpy(), found.error_bounds.numpy(), found.vectors
        products = found.matvecs
    quadrature = lanczos_quadrature(operator, probes=probes, steps=nodes, known=known, generator=generator)
    width = quadrature.resolution if width is None else width
    width = width or float(np.finfo(np.float32).eps) * max(1.0, float(np.abs(quadrature.nodes).max()))  # one eigenvalue
    low, high = interval or (quadrature.nodes.min() - 4 * width, quadrature.nodes.max() + 4 * width)
    dataset = xr.Dataset(
        coords={
            "eigenvalue": (
                "eigenvalue",
                np.linspace(low, high, points),
                {"units": CURVATURE, "long_name": "eigenvalue λ"},
            ),
            "alpha": ("alpha", np.asarray(alpha, dtype=float), {"units": CURVATURE, "long_name": "α"}),
        },
        attrs={
            "matrix": matrix,
            "width": width,
            "products": products + quadrature.products,
            "outliers_converged": bool(known is None or found.converged),
        },
    )
    described = {"units": CURVATURE, "long_name": "eigenvalue of large magnitude"}
    dataset["outlier"] = ("index", values, described)
    dataset["outlier_bound"] = ("index", bounds, {**described, "long_name": "bound on the eigenvalue's error"})
    _add_sums(dataset, quadrature, values, width, objective.size, matrix)
    return dataset


def _add_sums(
    dataset: xr.Dataset, quadrature: Quadrature, outliers: np.ndarray, width: float, n: int, matrix: Matrix
) -> None:
    grid, alpha = dataset.eigenvalue.values, dataset.alpha.values

    def broadened(nodes: np.ndarray) -> np.ndarray:
        distance = (grid - nodes[..., None]) / width
        return np.exp(-(distance**2) / 2) / (np.sqrt(2 * np.pi) * width)

    def dimension(values: np.ndarray) -> np.ndarray:
        positive = values.clip(0)[..., None]
        return positive / (positive + alpha)

    def add(name: str, dims: tuple[str, ...], samples: np.ndarray, units: str, long_name: str) -> None:
        mean, stderr = mean_and_stderr(samples)
        dataset[name] = (dims, mean, {"units": units, "long_name": long_name})
        dataset[f"{name}_stderr"] = (dims, stderr, {"units": units, "long_name": f"standard error of the {long_name}"})

    # a loop over probes bounds the memory: steps × points numbers at a time
    curves = [
        Quadrature(x[None], w[None], quadrature.dimension, 0)
        for x, w in zip(quadrature.nodes, quadrature.weights, strict=True)
    ]
    density = np.concatenate([curve.samples(broadened) for curve in curves]) / n
    add("density", ("eigenvalue",), density, "‖θ‖₂²/loss", "density φ(λ)")
    add("trace", (), quadrature.samples(lambda x: x) + outliers.sum(), CURVATURE, f"trace of the {TITLES[matrix]}")
    counted = quadrature.samples(dimension) + dimension(outliers).sum(0)
    add("effective_dimension", ("alpha",), counted, "1", "effective dimension Σ λ₊/(λ₊ + α)")

    negative = quadrature.samples(lambda x: (-x).clip(0)) + (-outliers).clip(0).sum()
    total = quadrature.samples(np.abs) + np.abs(outliers).sum()
    share = negative.mean() / total.mean() if total.any() else 0.0
    # The error of a ratio of means, to first order.
    add(
        "negative_share",
        (),
        share + (negative - share * total) / (total.mean() or 1.0),
        "1",
        "negative share of the curvature",
    )


@spectral_density.figure
def plot_spectral_density(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The density on a logarithmic axis with its band of one standard error; outliers are triangles at the foot."""
    return compare_spectral_density({"bulk": dataset}, ax)


def compare_spectral_density(datasets: Mapping[str, xr.Dataset], ax: Axes | None = None) -> Axes:
    """Densities and outliers of several methods, one colour each; bands are one standard error.

    Runs over a dimension `seed` need one `interval`, so that their densities stand on the same points.
    """
    with figures.axes(ax) as ax:
        foot = ax.get_xaxis_transform()
        for row, (method, dataset) in enumerate(datasets.items()):
            density, error = figures.over_seeds(dataset, "density", "density_stderr")
            line = figures.band(ax, dataset.eigenvalue, density, error, method, marker="none")
            outliers = dataset.outlier.values.ravel()
            ax.plot(
                outliers,
                np.full(len(outliers), 0.04 + 0.05 * row),
                transform=foot,
                linestyle="none",
                marker="^",
                color=line.get_color(),
                label=f"{method}: outliers" if len(datasets) > 1 else "outliers",
            )
        peak = max(float(dataset.density.max()) for dataset in datasets.values())
        ax.set_yscale("log")
        ax.set_ylim(1e-6 * peak, 3 * peak)
        first = next(iter(datasets.values()))
        ax.set_xlabel(figures.label(first.eigenvalue))
        ax.set_ylabel(figures.label(first.density))
        figures.legend(ax, columns=2)
        return ax

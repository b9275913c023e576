r"""PSF, what SAM adds to the gradient; to first order the Hessian along the gradient.

With g = ∇L_B(θ) the gradient of one batch and ĝ = g/‖g‖,

    h = ∇L_B(θ + ρ ĝ) − ∇L_B(θ) = ρ H ĝ + O(ρ²).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from analyses import figures
from analyses.gradients import over_batches
from analyses.registry import analysis
from landscape.objective.directions import unit
from landscape.objective.objective import Objective
from optimizers.ground.magnitude import directions_of, norm
from optimizers.ground.signatures import at_least, more_than


@analysis(
    cost="2 gradients and 1 Hessian product per batch",
    reference="Deng et al. (2024), arXiv:2403.08821",
    minibatches=True,
    mode="batch",
)
def psf(
    objective: Objective,
    *,
    rho: Annotated[float, more_than(0)] = 0.05,
    batches: Annotated[int, at_least(1)] = 8,
    seed: int = 0,
) -> xr.Dataset:
    r"""The perturbation's share of SAM's gradient, h = g_SAM − g, and how well ρ H ĝ predicts it.

    For each of `batches` batches B, drawn by `seed` (`position` says which), with g, g_SAM and the Hessian H those of L_B: `l2_psf` ‖h‖,
    `gradient_norm` ‖g‖, `ratio` ‖h‖/‖g‖, `linear_norm` ‖ρ H ĝ‖ and `linear_cosine` cos(h, ρ H ĝ); of each the mean and
    the standard error over batches. For ρ → 0 the cosine tends to one and both norms to each other; how far they part
    is how far from quadratic the loss is at radius ρ. A pair of vectors of which one is zero has no cosine: NaN.

    BatchNorm is in the objective's mode throughout: with the batch's own statistics at a checkpoint, as SAM's steps and
    the probe of the same name have it, since with running statistics the PSF is another number, several times as
    large on some networks (an `Objective` says it by `mode="batch"`; the attribute `objective_batch_norm` tells). Cost: 2 gradients and 1 Hessian product per batch. In float32 h is
    a difference of nearly equal gradients: below ρ ≈ 1e-3 use a float64 objective.

    Raises ValueError for ρ that is zero or not finite, for fewer than one batch, and for a batch whose gradient is
    zero.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        rho: The distance, in the L2 norm of θ unless said otherwise.
        batches: How many batches are drawn; all where there are fewer.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    if not np.isfinite(rho) or rho == 0:
        raise ValueError(f"rho: expected a finite, non-zero radius; got {rho}")
    chosen, positions = over_batches.drawn_batches(objective, batches, seed)
    theta = objective.theta
    rows = []
    for batch in tqdm(chosen, desc="psf", unit=" batches", delay=2, disable=None):
        part = objective.on([batch])
        gradient = part.gradient()
        direction = unit(gradient, "the gradient of a batch")
        difference = part.gradient(theta + rho * direction) - gradient
        linear = rho * (part.hessian() @ direction)
        norms = [norm(vector) for vector in (difference, gradient, linear)]
        pair = directions_of(torch.stack([difference, linear]))
        rows.append(torch.stack([norms[0], norms[1], norms[0] / norms[1], norms[2], (pair[0] @ pair[1]).clamp(-1, 1)]))

    length = "loss/‖θ‖₂"
    described = {
        "l2_psf": (length, "L2-PSF ‖h‖"),
        "gradient_norm": (length, "gradient norm ‖g‖"),
        "ratio": ("1", "relative PSF ‖h‖/‖g‖"),
        "linear_norm": (length, "linear model ‖ρHĝ‖"),
        "linear_cosine": ("1", "cosine of h and ρHĝ"),
    }
    dataset = xr.Dataset(coords={"batch": np.arange(len(chosen))}, attrs={"rho": rho})
    for column, (name, (units, long_name)) in zip(torch.stack(rows).T, described.items(), strict=True):
        over_batches.add(dataset, name, list(column), units=units, long_name=long_name)
    return over_batches.positioned(dataset, positions)


@psf.figure
def plot_psf(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """‖h‖ beside its linear model and ‖g‖: over the dimension `step` with bands, or batch by batch for one step."""
    with figures.axes(ax) as ax:
        hollow = {"markerfacecolor": "none", "markersize": 6}  # lies on the first where the linear model holds
        lines: dict[str, tuple[str, dict[str, Any]]] = {
            "l2_psf": ("‖h‖", {}),
            "linear_norm": ("‖ρHĝ‖", hollow),
            "gradient_norm": ("‖g‖", {}),
        }
        series = "step" in dataset.dims
        for name, (text, marks) in lines.items():
            if series:
                mean, error = figures.over_seeds(dataset, f"{name}_mean", f"{name}_stderr")
                figures.band(ax, dataset.step, mean, error, text, **marks)
            else:
                mean, _ = figures.over_seeds(dataset, name)
                figures.band(ax, dataset.batch, mean, None, text, linestyle="none", **marks)
        ax.set_xlabel("training step" if series else "batch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_yscale("log")
        ax.set_ylabel(r"norm [loss/$\|\theta\|_2$]")
        figures.legend(ax)
        return ax


def compare_psf(datasets: Mapping[str, xr.Dataset], ax: Axes | None = None, *, quantity: str = "l2_psf") -> Axes:
    """One quantity of the PSF: a line for each method over `step`, or a marker where there is one step."""
    with figures.axes(ax) as ax:
        figures.compare(datasets, f"{quantity}_mean", f"{quantity}_stderr", x="step", ax=ax)
        ax.set_ylabel(figures.label(next(iter(datasets.values()))[quantity]))
        figures.legend(ax)
        return ax

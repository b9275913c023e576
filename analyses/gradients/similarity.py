r"""How alike the gradients of SGD, SAM and MSAM are at one point, batch by batch.

    g = ∇L_B(θ),   g_SAM = ∇L_B(θ + ρ_s g/‖g‖),   g_MSAM = ∇L_B(θ − ρ_m v/‖v‖)

with B one batch and v the momentum: the cosine of every pair, and the direction of g_MSAM in the plane of g and g_SAM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from torch import Tensor
from tqdm import tqdm

from analyses import figures
from analyses.gradients import over_batches
from analyses.gradients.plane import angle_and_outside, closest, followed, plane, zero_crossing
from analyses.registry import analysis
from landscape.objective.directions import like, unit
from landscape.objective.objective import Objective
from optimizers.ground.magnitude import directions_of, norm
from optimizers.ground.signatures import at_least

LABELS = {
    "sgd": "SGD",
    "sam": "SAM",
    "msam": "MSAM",
    "full": "full gradient",
    "momentum": "momentum",
    "noise": "F-SAM noise",
}


@analysis(
    cost="1 gradient of all data; 2 gradients per batch, with momentum 3 and one more per radius of the grid",
    reference="Becker, Altrock and Risse (2024), Fig. 3; Li et al. (CVPR 2024)",
    minibatches=True,
    mode="batch",
)
def gradient_similarity(
    objective: Objective,
    *,
    momentum: Tensor | None = None,
    rho_sam: Annotated[float, at_least(0)] = 0.05,
    rho_msam: float = 0.5,
    rho_msam_grid: Sequence[float] | None = None,
    gradient_average: Tensor | None = None,
    noise_weight: float = 1.0,
    batches: Annotated[int, at_least(1)] = 8,
    seed: int = 0,
) -> xr.Dataset:
    r"""Cosines of all pairs among the gradients of SGD, SAM, MSAM, all data, the momentum and F-SAM's noise.

    For each of `batches` batches B, drawn by `seed` (`position` says which), at the same θ:

    - `sgd` g = ∇L_B(θ); `sam` ∇L_B(θ + ρ_s g/‖g‖); `msam` ∇L_B(θ − ρ_m v/‖v‖), with v the momentum;
    - `full` the gradient of all the objective's data (errors that are NaN: a part of a larger set stands for it);
    - `momentum` v itself. At a checkpoint v holds gradients of the last steps' batches, and batches drawn from all data
      share examples with those: cos(`sgd`, `momentum`) is that of a batch *seen*. The probe's
      `momentum_cosine_next_batch` is that of the batch to come, which in the same epoch v has not seen, and is often of
      the other sign;
    - `noise` F-SAM's direction g − σ m, with m the average of past gradients (`gradient_average`) and σ `noise_weight`.

    Without a momentum, or with one that is zero, `msam`, `momentum` and the angles are left out; without a gradient
    average, `noise` is. The attribute `left_out` says so.

    The plane of SAM (Fig. 3): `angle` (batch, rho_msam) of ∇L_B(θ − ρ_m v/‖v‖) to g_SAM inside the plane of g and
    g_SAM, negative on the side of g, followed continuously from the smallest |ρ_m| on. `zero_crossing` is the ρ_m nearest
    to zero, of either sign, where it passes through zero (NaN: it never does), `closest` the ρ_m of the least |angle|, each per batch and, as
    `mean_zero_crossing` and `mean_closest`, for the angle averaged over batches; the attribute `crossings` says how
    many batches have one. `out_of_plane` is the fraction of the norm outside that plane: where it is near one, the
    angle says little.

    Returns `cosine` (batch, gradient, other), its mean and standard error over batches, `norm` (batch, gradient), and
    the above. BatchNorm is in the objective's mode throughout: at a checkpoint with each batch's statistics. A vector that is zero has no cosine: NaN.

    Cost: one gradient of all data; 2 gradients per batch, with momentum 3 and one for each radius of the grid, which is
    by default 16 radii from 0 to 3 ρ_m.

    Raises ValueError for a vector of another size than θ, for radii that are not finite, for fewer than one batch, and
    for a batch whose gradient is zero (it has no SAM gradient).

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        momentum: The optimizer, a mapping by name or a vector; a checkpoint brings its own.
        rho_sam: SAM's radius.
        rho_msam: MSAM's radius.
        rho_msam_grid: Radii of the angle's curve; 16 from 0 to 3 rho_msam if left out.
        gradient_average: F-SAM's average of past gradients (n,); a checkpoint brings its own.
        noise_weight: σ, how much of the average F-SAM's noise leaves out.
        batches: How many batches are drawn; all where there are fewer.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    theta = objective.theta
    grid = np.asarray(np.linspace(0, 3 * rho_msam, 16) if rho_msam_grid is None else sorted(rho_msam_grid), dtype=float)
    if not np.isfinite([rho_sam, rho_msam, *grid]).all():
        raise ValueError(f"expected finite radii; got rho_sam={rho_sam}, rho_msam={rho_msam}, rho_msam_grid={grid}")
    chosen, positions = over_batches.drawn_batches(objective, batches, seed)

    fixed, left_out, ascent = {"full": objective.gradient()}, [], None
    if momentum is None or not momentum.any():
        left_out.append(f"msam, momentum, angle: {'there is no' if momentum is None else 'zero'} momentum")
    else:
        fixed["momentum"] = like(theta, momentum, "momentum")
        ascent = -unit(fixed["momentum"], "momentum")
    if gradient_average is None:
        left_out.append("noise: no gradient_average given")
    else:
        gradient_average = like(theta, gradient_average, "gradient_average")

    cosines, norms, angles, outside = [], [], [], []
    for batch in tqdm(chosen, desc="gradient similarity", unit=" batches", delay=2, disable=None):
        part = objective.on([batch])
        gradient = part.gradient()
        sam = part.gradient(theta + rho_sam * unit(gradient, "the gradient of a batch"))
        vectors = {**fixed, "sgd": gradient, "sam": sam}
        if ascent is not None:
            vectors["msam"] = part.gradient(theta + rho_msam * ascent)
            basis = plane(gradient, sam)
            seen = [angle_and_outside(part.gradient(theta + float(rho) * ascent), basis) for rho in grid]
            angles.append(torch.stack([angle for angle, _ in seen]))
            outside.append(torch.stack([fraction for _, fraction in seen]))
        if gradient_average is not None:
            vectors["noise"] = gradient - noise_weight * gradient_average
        names = [name for name in LABELS if name in vectors]
        stacked = torch.stack([vectors[name] for name in names])
        norms.append(norm(stacked))
        directions = directions_of(stacked)
        cosines.append((directions @ directions.T).clamp(-1, 1))

    dataset = xr.Dataset(coords={"batch": np.arange(len(chosen)), "gradient": names, "other": names})
    over_batches.add(dataset, "cosine", cosines, "gradient", "other", long_name="cosine of two gradients")
    over_batches.add(dataset, "norm", norms, "gradient", units="loss/‖θ‖₂", long_name="norm of the gradient")
    if objective.partial:  # the same in every batch, which says nothing about the examples left out
        for pair in (("full", "momentum"), ("momentum", "full")):
            if ascent is not None:
                dataset["cosine_stderr"].loc[dict(zip(("gradient", "other"), pair, strict=True))] = np.nan
        dataset["norm_stderr"].loc[{"gradient": "full"}] = np.nan
    over_batches.positioned(dataset, positions)
    if ascent is not None:
        _add_plane(dataset, grid, angles, outside)
    dataset.attrs |= {"left_out": "; ".join(left_out), "rho_sam": rho_sam, "rho_msam": rho_msam}
    return dataset


def _add_plane(dataset: xr.Dataset, grid: np.ndarray, raw: list[Tensor], outside: list[Tensor]) -> None:
    """The angles over the grid of ρ_m, and where they vanish."""
    angles = [torch.from_numpy(followed(grid, angle.cpu().double().numpy())) for angle in raw]
    rho = {"units": "‖Δθ‖₂", "long_name": "MSAM's radius ρ"}
    dataset.coords["rho_msam"] = ("rho_msam", grid, rho)
    over_batches.add(
        dataset, "angle", angles, "rho_msam", units="rad", long_name="angle of g_MSAM to g_SAM in their plane"
    )
    over_batches.add(dataset, "out_of_plane", outside, "rho_msam", long_name="fraction of ‖g_MSAM‖ outside the plane")
    crossings = [zero_crossing(grid, angle) for angle in dataset["angle"].values]
    mean = dataset["angle_mean"].values
    dataset["zero_crossing"] = ("batch", crossings, {**rho, "long_name": "MSAM's radius of angle zero"})
    dataset["closest"] = (
        "batch",
        [closest(grid, angle) for angle in dataset["angle"].values],
        {**rho, "long_name": "MSAM's radius of least angle"},
    )
    dataset["mean_zero_crossing"] = (
        (),
        zero_crossing(grid, mean),
        {**rho, "long_name": "where the mean angle is zero"},
    )
    dataset["mean_closest"] = ((), closest(grid, mean), {**rho, "long_name": "where the mean angle is least"})
    found = int(np.isfinite(crossings).sum())
    dataset.attrs["crossings"] = f"{found} of {len(crossings)} batches" if found else "none on the grid"


@gradient_similarity.figure
def plot_gradient_similarity(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The matrix of mean cosines, each with its standard error: over seeds where there are any, else over batches."""
    with figures.axes(ax) as ax:
        mean, error = figures.over_seeds(dataset, "cosine_mean", "cosine_stderr")
        shown = ax.imshow(mean, vmin=-1, vmax=1, cmap="RdBu_r")
        names = [LABELS[str(name)] for name in dataset.gradient.values]
        ax.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), names)
        ax.grid(False)
        for (row, column), value in np.ndenumerate(mean.values):
            uncertainty = np.nan if error is None else error.values[row, column]
            text = f"{round(value, 2) + 0.0:.2f}" + (
                f"\n±{uncertainty:.2f}" if np.isfinite(uncertainty) and row != column else ""
            )
            ax.text(column, row, text, ha="center", va="center", fontsize=6, color="w" if abs(value) > 0.6 else "k")
        ax.figure.colorbar(shown, ax=ax, label="cosine of the gradients", ticks=[-1, 0, 1])
        return ax


def compare_gradient_similarity(
    datasets: Mapping[str, xr.Dataset], ax: Axes | None = None, *, pair: tuple[str, str] = ("sam", "msam")
) -> Axes:
    """The cosine of one pair of gradients: a line for each method over `step`, or a marker where there is one step."""
    with figures.axes(ax) as ax:
        first, second = pair
        figures.compare(datasets, "cosine_mean", "cosine_stderr", x="step", ax=ax, gradient=first, other=second)
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_ylabel(f"cosine of {LABELS[first]} and {LABELS[second]}")
        figures.legend(ax)
        return ax


def compare_angle(datasets: Mapping[str, xr.Dataset], ax: Axes | None = None) -> Axes:
    """The angle of g_MSAM to g_SAM against MSAM's ρ, a line for each method (Becker et al. 2024, Fig. 3)."""
    with figures.axes(ax) as ax:
        figures.require(datasets, "angle_mean")
        degrees = {method: _in_degrees(dataset) for method, dataset in datasets.items()}
        figures.compare(degrees, "angle_mean", "angle_stderr", x="rho_msam", ax=ax)
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_xlabel(r"MSAM's radius ρ [$\|\Delta\theta\|_2$]")
        ax.set_ylabel("angle to the SAM gradient [°]")
        figures.legend(ax)
        return ax


def _in_degrees(dataset: xr.Dataset) -> xr.Dataset:
    return (dataset[["angle_mean", "angle_stderr"]] * (180 / np.pi)).assign_attrs(dataset.attrs)

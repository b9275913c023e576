r"""The loss on a line or in a plane through θ: L(θ + a d₁ + b d₂) on a grid of a and b.

The grid is the same in every row, θ itself is one of its points where the number of points is odd, and the model is
left where it was. Two surfaces can be compared where they have the same seed, span and kind of direction; filter
normalisation makes a and b relative to the weights, so that networks of different scale can be compared too.

Reference: Li et al. (2018), https://arxiv.org/abs/1712.09913; Goodfellow, Vinyals and Saxe (2015) for the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from torch import Tensor

from analyses import figures
from analyses.directions.named import choose, vector
from analyses.registry import analysis
from analyses.sharpness.displaced_loss import displaced_loss
from landscape.objective.directions import like
from landscape.objective.objective import Objective
from optimizers.ground.signatures import Seed

KINDS = ("filter_normalized", "random", "gradient", "momentum", "eigenvector")


@analysis(
    cost="points evaluations of the loss for a line, points² for a plane",
    reference="Li et al. (2018)",
    data_parallel=True,
)
def loss_surface(
    objective: Objective,
    *,
    directions: Sequence[str] = ("filter_normalized", "filter_normalized"),
    span: float = 1.0,
    points: int = 25,
    momentum: Tensor | None = None,
    seed: Seed = 0,
) -> xr.Dataset:
    r"""The loss on a grid through θ, spanned by one or two directions.

    `directions`, one for a line and two for a plane:

    - `filter_normalized`: Gaussian, every filter scaled to the norm of that filter of θ, biases and normalisation
      parameters not moved; a and b are relative, and not normalised again. Two of them are nearly, not exactly,
      orthogonal, as in the paper;
    - `random`: uniform on the unit sphere; `gradient`; `momentum`; `eigenvector`: of the largest Hessian eigenvalue,
      of the second where it is named twice. These are unit vectors, and the second is made orthogonal to the first.

    `loss` (a,) or (b, a) on `points` values per axis from −`span` to `span`; attribute `cosine` between the directions.
    Random numbers are drawn from `seed`: the same seed is the same plane for every model of the same shape; at
    checkpoints, for those of one step and one seed of the run (`analyses.draws`). BatchNorm
    is in the objective's mode with the statistics it has, which belong to θ. Cost: points or points² evaluations of the
    loss.

    Raises ValueError for unknown or too many directions, a momentum that is asked for and missing, parallel directions,
    and a grid without extent.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        directions: Which directions, by name, as listed above; the default ones if left out.
        span: The grid goes from −span to span.
        points: Points of the grid, on each axis.
        momentum: The optimizer, a mapping by name or a vector; a checkpoint brings its own.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    if len(directions) > 2:
        raise ValueError(f"directions: expected one or two of {', '.join(KINDS)}; got {len(directions)}")
    if momentum is not None:
        momentum = like(objective.theta, momentum, "momentum")
    directions, _ = choose(directions, momentum, known=KINDS, default=KINDS)
    if points < 2 or not span > 0 or not np.isfinite(span):
        raise ValueError(f"expected at least 2 points and a positive, finite span; got {points} and {span}")
    basis = _basis(objective, directions, momentum, seed)
    grid = np.linspace(-span, span, points)
    axes = [torch.from_numpy(grid)] * len(directions)
    # the first axis varies fastest: it is the horizontal one
    coefficients = torch.cartesian_prod(*axes).reshape(-1, len(directions)).flip(1)
    losses = displaced_loss(objective, coefficients, basis).cpu().double().numpy()
    names = ("b", "a")[-len(directions) :]
    unit_of = {kind: "‖Δθ_f‖/‖θ_f‖" if kind == "filter_normalized" else "‖Δθ‖₂" for kind in KINDS}
    coords = {
        name: (name, grid, {"units": unit_of[kind], "long_name": f"{name}, along {kind.replace('_', ' ')}"})
        for name, kind in zip(reversed(names), directions, strict=True)
    }
    cosine = torch.cosine_similarity(basis[0], basis[-1], dim=0).item() if len(directions) == 2 else float("nan")
    return xr.Dataset(
        {
            "loss": (names, losses.reshape([points] * len(names)), {"units": "loss", "long_name": "loss L"}),
            "center": ((), float(objective()), {"units": "loss", "long_name": "loss at θ"}),
        },
        coords=coords,
        attrs={"directions": ", ".join(directions), "cosine": cosine},
    )


def _basis(objective: Objective, kinds: Sequence[str], momentum: Tensor | None, seed: int) -> Tensor:
    """The directions, (1, n) or (2, n)."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    for place, kind in enumerate(kinds):
        direction = vector(kind, objective, momentum, generator, index=list(kinds[:place]).count(kind))
        if kind == "filter_normalized":
            rows.append(direction)
            continue
        for earlier in rows:
            direction = direction - earlier * (earlier @ direction) / (earlier @ earlier)
        length = float(torch.linalg.vector_norm(direction))
        if length < 100 * torch.finfo(direction.dtype).eps:
            raise ValueError(f"directions: {kind!r} is parallel to the first direction; they span no plane")
        rows.append(direction / length)
    return torch.stack(rows)


@loss_surface.figure
def plot_loss_surface(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The loss along a line (mean and standard error over seeds where there are any), or its contours in a plane."""
    with figures.axes(ax) as ax:
        loss, error = figures.over_seeds(dataset, "loss")
        ax.set_xlabel(_axis_label(dataset.a))
        if "b" not in loss.dims:
            figures.band(ax, loss.a, loss, error)
            ax.set_ylabel(figures.label(dataset.loss))
            return ax
        filled = ax.contourf(loss.a, loss.b, loss, levels=20)
        ax.contour(
            loss.a, loss.b, loss, levels=np.asarray(filled.levels)[::4], colors="w", linewidths=0.4, linestyles="-"
        )
        ax.plot(0, 0, marker="*", color="w", markersize=6, linestyle="none")
        ax.grid(False)
        ax.set_ylabel(_axis_label(dataset.b))
        ax.figure.colorbar(filled, ax=ax, label=figures.label(dataset.loss))
        return ax


def compare_loss_surface(datasets: Mapping[str, xr.Dataset], ax: Axes | None = None) -> Axes:
    """The rise L − L(θ) of several methods: lines, or in a plane contours of common levels (the flatter, the wider)."""
    with figures.axes(ax) as ax:
        figures.require_one_mode(datasets)
        rises = {
            method: (dataset["loss"] - dataset.center).to_dataset(name="rise") for method, dataset in datasets.items()
        }
        first = next(iter(datasets.values()))
        ax.set_xlabel(_axis_label(first.a))
        if "b" not in first.dims:
            figures.compare(rises, "rise", x="a", ax=ax)
            ax.set_ylabel("rise of the loss [loss]")
            figures.legend(ax)
            return ax
        means = {method: figures.over_seeds(rise, "rise")[0] for method, rise in rises.items()}
        # Levels that every method reaches inside the picture: up to the lowest of the highest points.
        top = min(float(mean.max()) for mean in means.values())
        for method, mean in means.items():
            line = figures.band(ax, [], [], None, method, marker="none")
            ax.contour(
                mean.a,
                mean.b,
                mean,
                levels=np.array([0.1, 0.3, 0.6]) * top,
                colors=[line.get_color()],
                linestyles=[line.get_linestyle()],
                linewidths=0.9,
            )
        ax.plot(0, 0, marker="*", color="k", markersize=5, linestyle="none")
        ax.set_ylabel(_axis_label(first.b))
        figures.legend(ax)
        return ax


def _axis_label(displacement: xr.DataArray) -> str:
    relative = displacement.attrs["units"] != "‖Δθ‖₂"
    return f"{displacement.attrs['long_name']} [{'relative' if relative else '‖Δθ‖₂'}]"

r"""Directional sharpness: how far the loss rises at a distance ρ along one direction.

    S(ρ; d) = L(θ + ρ d̂) − L(θ),   d̂ = d / ‖d‖₂

over a signed grid of ρ. The averaged loss L is that of the objective: stated data, stated BatchNorm mode. Differences
of losses cancel: in float32 they carry an error of about 1e-7 · L, so very small radii want a float64 objective.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from torch import Tensor

from analyses import figures
from analyses.directions.named import choose, vector
from analyses.estimators import spread
from analyses.registry import analysis
from analyses.sharpness.displaced_loss import displaced_loss
from landscape.objective.directions import like, unit
from landscape.objective.objective import Objective
from optimizers.ground.magnitude import norm
from optimizers.ground.signatures import Seed

DIRECTIONS = ("gradient", "momentum", "random", "filter_normalized", "eigenvector", "batch_gradient")
DEFAULT = ("batch_gradient", "gradient", "momentum", "random")
RANDOM = ("random", "filter_normalized")
RADII = tuple(float(radius) for radius in np.linspace(-1.0, 1.0, 21))


@analysis(
    cost="2 gradients; an evaluation of the loss per radius and direction, `samples` of them for a random one",
    reference="Becker, Altrock and Risse (2024), Fig. 4; Li et al. (2018)",
    minibatches=True,
)
def directional_sharpness(
    objective: Objective,
    *,
    radii: Sequence[float] = RADII,
    directions: Sequence[str] | None = None,
    momentum: Tensor | None = None,
    samples: int = 10,
    seed: Seed = 0,
) -> xr.Dataset:
    r"""The rise of the loss along a direction, S(ρ; d) = L(θ + ρ d/‖d‖) − L(θ).

    Directions:

    - `batch_gradient`: for each batch B of the objective the rise of L_B along its own gradient, the quantity that
      SAM's ascent raises and Fig. 4A of Becker et al. shows; the samples are the batches, which at a checkpoint have
      the size trained with and are put together at random by `seed`;
    - `gradient`: the gradient of all the data, and their loss along it: the full gradient, which no step of training on
      minibatches climbs;
    - `momentum`: the base optimizer's first moment v. The descent step goes along −v, so ρ < 0 is the side on which
      MSAM evaluates its gradient, θ − |ρ| v/‖v‖, and ρ > 0 the opposite one;
    - `random`: `samples` vectors uniform on the unit sphere, drawn from `seed`;
    - `filter_normalized`: `samples` Gaussian vectors with every filter scaled to the norm of the same filter of θ,
      biases and normalisation parameters not moved. It is not normalised again: ρ is *relative* to the weights, and
      the coordinate `radius_unit` says so. `length` holds ‖Δθ‖ at ρ = 1;
    - `eigenvector`: of the largest Hessian eigenvalue (its sign has no meaning).

    By default the batches' gradients, the full one, momentum (left out, with an attribute that says so, where there is
    none) and random. At a checkpoint the random vectors differ between runs of different seeds and between steps
    (`analyses.draws`), so that a mean over runs averages them too.

    Returns `sharpness` (direction, radius), its standard deviation and standard error over the samples (zero where one
    direction is all there is, unless the data are a part of a larger set: what the others would say is not known, NaN;
    NaN too for a single random sample), `sample_sharpness` (direction, sample, radius) padded
    with NaN, `sample_count`, `length` and `loss`, L(θ). Units: that of the loss; radii in the L2 norm of θ unless
    relative.

    Cost: two gradients, and one evaluation for each radius, direction and sample; small models share a pass over the
    data.

    Raises ValueError for an unknown direction, for `momentum` asked for where there is none or it is zero, or of
    another size than θ, for radii that are not finite, and for fewer than one sample; FloatingPointError where L(θ) is not
    finite.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        radii: Signed distances along each direction.
        directions: Which directions, by name, as listed above; the default ones if left out.
        momentum: The optimizer, a mapping by name or a vector; a checkpoint brings its own.
        samples: Random directions averaged over.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    grid = np.asarray(radii, dtype=np.float64)
    if grid.ndim != 1 or not grid.size or not np.isfinite(grid).all():
        raise ValueError(f"radii: expected a non-empty list of finite numbers; got {radii!r}")
    if samples < 1:
        raise ValueError(f"samples: expected at least 1; got {samples}")
    if momentum is not None:
        momentum = like(objective.theta, momentum, "momentum")
    names, left_out = choose(directions, momentum, known=DIRECTIONS, default=DEFAULT)

    offsets = torch.as_tensor(np.concatenate([[0.0], grid]), dtype=torch.float64)
    loss = None
    rises: dict[str, np.ndarray] = {}
    lengths: dict[str, float] = {}
    for name in names:
        samples_of_name, lengths_of_name = [], []
        for part, direction in _directions(name, objective, momentum, samples, seed):
            losses = displaced_loss(part, offsets[:, None], direction[None]).cpu().double()
            if not torch.isfinite(losses[0]):
                raise FloatingPointError(
                    f"the loss is {float(losses[0])} at the model's parameters; "
                    "has training diverged, or does the data hold NaN or Inf?"
                )
            samples_of_name.append((losses[1:] - losses[0]).numpy())
            loss = float(losses[0]) if part is objective else loss
            lengths_of_name.append(float(norm(direction)))
        rises[name] = np.stack(samples_of_name)
        lengths[name] = float(np.mean(lengths_of_name))

    most = max(len(rise) for rise in rises.values())
    padded = np.full((len(rises), most, grid.size), np.nan)
    for row, rise in zip(padded, rises.values(), strict=True):
        row[: len(rise)] = rise
    counts = np.array([len(rise) for rise in rises.values()])
    deviation = np.stack([_deviation(name, rise, objective.partial) for name, rise in rises.items()])
    units = {"units": "loss"}
    dataset = xr.Dataset(
        {
            "sharpness": (("direction", "radius"), np.stack([rise.mean(0) for rise in rises.values()]), units),
            "sharpness_sd": (("direction", "radius"), deviation, units),
            "sharpness_stderr": (("direction", "radius"), deviation / np.sqrt(counts)[:, None], units),
            "sample_sharpness": (("direction", "sample", "radius"), padded, units),
            "sample_count": ("direction", counts, {"units": "1", "long_name": "directions averaged over"}),
            "length": ("direction", list(lengths.values()), {"units": "‖θ‖₂", "long_name": "‖Δθ‖ at ρ = 1"}),
            "loss": ((), float(objective()) if loss is None else loss, {"units": "loss", "long_name": "L(θ)"}),
        },
        coords={
            "direction": list(rises),
            "radius": ("radius", grid, {"units": "‖Δθ‖₂", "long_name": "radius ρ"}),
            "radius_unit": (
                "direction",
                ["‖Δθ_f‖/‖θ_f‖" if name == "filter_normalized" else "‖Δθ‖₂" for name in rises],
                {"long_name": "what ρ measures; radii of different units must not be compared"},
            ),
        },
        attrs=left_out | ({"momentum_side": "ρ < 0 is MSAM's ascent point"} if "momentum" in rises else {}),
    )
    dataset["sharpness"].attrs["long_name"] = "rise of the loss S(ρ)"
    dataset["sharpness_sd"].attrs["long_name"] = "standard deviation of S(ρ) over directions"
    dataset["sharpness_stderr"].attrs["long_name"] = "standard error of the mean S(ρ) over directions"
    dataset["sample_sharpness"].attrs["long_name"] = "S(ρ) of each direction"
    return dataset


def _directions(
    name: str, objective: Objective, momentum: Tensor | None, samples: int, seed: int
) -> Iterator[tuple[Objective, Tensor]]:
    """Each direction called `name`, with the objective whose rise along it is asked for."""
    generator = torch.Generator().manual_seed(seed)
    if name == "batch_gradient":
        for batch in objective.batches:
            part = objective.on([batch])
            yield part, unit(part.gradient(), name)
    else:
        for _ in range(samples if name in RANDOM else 1):
            yield objective, vector(name, objective, momentum, generator)


def _deviation(name: str, rise: np.ndarray, partial: bool) -> np.ndarray:
    """Standard deviation over samples, (s, r) → (r,): zero for the only direction, unknown for one draw of several.

    A single value from a part of the data is exact for that part alone: unknown too.
    """
    if len(rise) > 1:
        return spread.deviation(rise)
    drawn = name in RANDOM or name == "batch_gradient"
    return np.full(rise.shape[1], np.nan if drawn or partial else 0.0)


@directional_sharpness.figure
def plot_directional_sharpness(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """S(ρ) against ρ, a line for each direction.

    Bands are one standard error: over seeds where there is a dimension `seed`, else over the sampled directions. The
    radius of filter-normalised directions is relative; the axis and the legend say so.
    """
    with figures.axes(ax) as ax:
        names = [str(name) for name in dataset.direction.values]
        for name in names:
            mean, error = figures.over_seeds(dataset.sel(direction=name), "sharpness", "sharpness_stderr")
            figures.band(ax, dataset.radius, mean, error, name.replace("_", " "))
        _label_axes(ax, names)
        figures.legend(ax)
        return ax


def compare_directional_sharpness(
    datasets: Mapping[str, xr.Dataset], ax: Axes | None = None, *, direction: str = "gradient"
) -> Axes:
    """S(ρ) along one direction, a line for each method; bands as in `plot_directional_sharpness`."""
    with figures.axes(ax) as ax:
        figures.compare(datasets, "sharpness", "sharpness_stderr", x="radius", ax=ax, direction=direction)
        _label_axes(ax, [direction])
        ax.set_xlabel(f"{ax.get_xlabel()} along {direction.replace('_', ' ')}")
        figures.legend(ax)
        return ax


def _label_axes(ax: Axes, directions: Sequence[str]) -> None:
    ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.set_ylabel("rise of the loss S(ρ) [loss]")
    absolute, relative = r"radius ρ [$\|\Delta\theta\|_2$]", r"relative radius ρ [$\|\Delta\theta_f\|/\|\theta_f\|$]"
    if "filter_normalized" not in directions:
        ax.set_xlabel(absolute)
    else:
        ax.set_xlabel(relative if len(directions) == 1 else f"{absolute}\nfilter normalized: {relative}")

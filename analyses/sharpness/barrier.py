r"""The barrier between two checkpoints: how far the loss on the straight line rises above the ends' own.

B = max_α L(θ(α)) − ((1−α) L(θ_0) + α L(θ_1)),   θ(α) = (1−α) θ_0 + α θ_1
"""

from typing import Annotated

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analyses import figures
from analyses.registry import analysis
from landscape.objective.objective import Objective
from landscape.runs.checkpoint import Checkpoint
from optimizers.ground.signatures import at_least


@analysis(cost="an evaluation per point", reference="Frankle et al. (2020)", mode="batch")
def interpolation_barrier(
    objective: Objective, *, other: Checkpoint, points: Annotated[int, at_least(3)] = 25
) -> xr.Dataset:
    r"""How far the loss between two checkpoints rises above the line that joins their losses.

    `loss` (alpha), `excess` over the chord, `barrier` its largest value (not below zero, the ends') and `barrier_alpha`.
    BatchNorm takes each batch's statistics: running ones belong to neither point between. An `Objective` that would use
    running statistics is refused: ValueError. So is a checkpoint of another network.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        other: The checkpoint at α = 1.
        points: Values of α from 0 to 1, the ends included.
    """
    if objective.function.batch_norm == "running statistics":
        raise ValueError('BatchNorm: running statistics fit no θ between two points; expected Objective(mode="batch")')
    start = objective.theta
    away = objective.space.flatten(other.parameters).to(start) - start
    alpha = np.linspace(0, 1, points)
    loss = np.array([float(objective(start + float(a) * away)) for a in alpha])
    if not np.isfinite(loss).all():
        raise FloatingPointError("a loss between the checkpoints is not finite; has one of them diverged?")
    excess = loss - (1 - alpha) * loss[0] - alpha * loss[-1]
    units = {"units": "loss"}
    variables = {
        "loss": ("alpha", loss, {**units, "long_name": "loss L"}),
        "excess": ("alpha", excess, {**units, "long_name": "loss above the chord"}),
        "barrier": ((), excess.max(), {**units, "long_name": "barrier"}),
        "barrier_alpha": ((), alpha[excess.argmax()], {"units": "1", "long_name": "α of the barrier"}),
    }
    return xr.Dataset(variables, {"alpha": alpha}, {"batch_norm": objective.function.batch_norm})


@interpolation_barrier.figure
def plot_interpolation_barrier(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The loss along the line."""
    with figures.axes(ax) as ax:
        figures.band(ax, dataset.alpha, *figures.over_seeds(dataset, "loss"))
        ax.set(xlabel="α, from the one checkpoint to the other", ylabel=figures.label(dataset.loss))
        return ax

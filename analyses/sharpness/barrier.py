r"""The barrier between two checkpoints: how far the loss on the straight line rises above the ends' own.

B = max_α L(θ(α)) − ((1−α) L(θ_0) + α L(θ_1)),   θ(α) = (1−α) θ_0 + α θ_1
"""

from typing import Annotated

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from tqdm import tqdm

from analyses import figures
from analyses.registry import analysis
from landscape.objective.objective import Objective
from landscape.runs.checkpoint import Checkpoint
from optimizers.ground.signatures import at_least


@analysis(
    cost="an evaluation per point, two with BatchNorm", reference="Frankle et al. (2020); Garipov et al. (2018), A.2"
)
def interpolation_barrier(
    objective: Objective, *, other: Checkpoint, points: Annotated[int, at_least(3)] = 25
) -> xr.Dataset:
    r"""How far the loss between two checkpoints rises above the line that joins their losses.

    `loss` (alpha), `excess` over the chord, `barrier` its largest value (not below zero, the ends') and `barrier_alpha`.
    BatchNorm's statistics are gathered at every point (`Objective.reestimated`), from a checkpoint over its evaluation's
    training examples, whatever the split. Attribute `evaluations`: all forward passes, the gathering's too. ValueError
    for another network, FloatingPointError for a loss that is not finite.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        other: The checkpoint at α = 1.
        points: Values of α from 0 to 1, the ends included.
    """
    start, loss, alpha = objective.theta, [], np.linspace(0, 1, points)
    end = objective.space.flatten(other.parameters).to(start)
    for a in tqdm(alpha, desc="barrier", unit=" points", delay=2, disable=None):
        there = objective.reestimated(start.lerp(end, float(a)))
        loss.append(float(there()))
    excess = loss - (1 - alpha) * loss[0] - alpha * loss[-1]
    variables = {
        "loss": ("alpha", loss, {"units": "loss", "long_name": "loss L"}),
        "excess": ("alpha", excess, {"units": "loss", "long_name": "loss above the chord"}),
        "barrier": ((), excess.max(), {"units": "loss", "long_name": "barrier"}),
        "barrier_alpha": ((), alpha[excess.argmax()], {"units": "1", "long_name": "α of the barrier"}),
    }
    return xr.Dataset(variables, {"alpha": alpha}, {"objective_batch_norm": there.function.batch_norm})


@interpolation_barrier.figure
def plot_interpolation_barrier(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The loss along the line, above the chord that the barrier is measured from."""
    with figures.axes(ax) as ax:
        figures.band(ax, dataset.alpha, *figures.over_seeds(dataset, "loss"))
        ax.plot([0, 1], figures.over_seeds(dataset, "loss")[0][[0, -1]], color="0.5", linestyle=":", marker="")
        ax.set(xlabel="α, from the one checkpoint to the other", ylabel=figures.label(dataset.loss))
        return ax

r"""What SAM's perturbation does to the batch it comes from and to the rest, by F-SAM's components of the batch's gradient.

P = (g·G/‖G‖²) G,   N = g − P,   rise(d; B) = L_B(θ + ρ d/‖d‖) − L_B(θ)      Li et al. (CVPR 2024)
"""

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from torch import Tensor

from analyses import figures
from analyses.gradients import over_batches
from analyses.registry import analysis
from landscape.objective.directions import like, unit
from landscape.objective.objective import Objective


@analysis(cost="a gradient, 4 losses of all data a batch", reference="Li et al. (2024)", minibatches=True, mode="batch")
def friendliness(
    objective: Objective, *, rho: float = 0.1, gradient_average: Tensor | None = None, batches: int = 4, seed: int = 0
) -> xr.Dataset:
    r"""The rise of the loss on a batch and on all others along the full part P of its gradient, the noise N, and g.

    Args:
        objective: The loss; or a checkpoint, which brings it.
        rho: The length of every perturbation.
        gradient_average: G, F-SAM's; a checkpoint brings its own. Without one G is the gradient of all data.
        batches: How many batches are drawn; all where there are fewer.
        seed: Of the draw; at a checkpoint, with the run's own seed and the step.
    """
    if len(objective.batches) < 2:
        raise ValueError("expected at least 2 batches, one and the rest; got 1")
    theta, m, rises = objective.theta, gradient_average, list[Tensor]()
    full = unit(objective.gradient() if m is None else like(theta, m, "gradient_average"), "the full gradient")
    for batch, position in zip(*(drawn := over_batches.drawn_batches(objective, batches, seed)), strict=True):
        own, rest = objective.on([batch]), objective.on([b for i, b in enumerate(objective.batches) if i != position])
        gradient = own.gradient()
        vectors = {"full": (gradient @ full) * full, "noise": gradient - (gradient @ full) * full, "gradient": gradient}
        points = torch.stack([theta, *(theta + rho * unit(vector, name) for name, vector in vectors.items())])
        rises.append(torch.stack([(losses := part(points))[1:] - losses[0] for part in (own, rest)], 1))
    coords = {"batch": np.arange(len(rises)), "component": list(vectors), "on": ["own batch", "the rest"]}
    found = xr.Dataset(coords=coords, attrs={"full_gradient": "of all data" if m is None else "average"})
    over_batches.add(found, "rise", rises, "component", "on", units="loss", long_name="rise of the loss")
    return over_batches.positioned(found, drawn[1])


@friendliness.figure
def plot_friendliness(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The mean rise on the own batch and on the rest."""
    with figures.axes(ax) as ax:
        ax.set(xlabel="part of the batch's gradient", ylabel=figures.label(dataset.rise))
        for on, marker in zip(dataset.on.values, "os", strict=True):
            mean = figures.over_seeds(dataset.sel(on=on), "rise_mean", "rise_stderr")
            figures.points(ax, dataset.component, *mean, str(on), marker=marker)
        ax.margins(x=0.15)
        figures.legend(ax)
        return ax

r"""m-sharpness: how far the loss of m examples can be raised within a distance ρ, averaged over groups.

    S_m(ρ) = mean over disjoint groups M of m examples of  max_{‖T⁻¹ε‖₂ ≤ ρ} L_M(θ + ε) − L_M(θ)

T = 1, or |θ| for the adaptive measure, which does not change when weights are rescaled entry by entry. The maximum is
approached by steps of length ρ along the gradient, projected back onto the ball; the first is SAM's perturbation,
ε = ρ T²g/‖Tg‖, and the largest value of all steps counts, so that more steps never give less.

References: Foret et al. (2021), section 4.1; Kwon et al. (2021); Andriushchenko et al. (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from torch import Tensor
from torch.func import grad, vmap
from tqdm import tqdm

from analyses import figures
from analyses.estimators import spread
from analyses.registry import analysis
from analyses.sharpness.displaced_loss import NUMBERS_AT_ONCE
from analyses.sharpness.regrouped import Examples, groups_of, one_group, row_dimensions, shuffled_examples, split_groups
from landscape.objective.batches import Batch
from landscape.objective.determinism import examine
from landscape.objective.objective import Objective
from optimizers.ground.magnitude import directions_of, norm
from optimizers.ground.signatures import Seed, not_empty

EXAMPLES_AT_ONCE = 4096
GroupLoss = Callable[[Tensor, Any, Any], Tensor]


@analysis(
    cost="1 evaluation and `ascent_steps` gradients and evaluations of all data for each m",
    reference="Foret et al. (2021), section 4.1; Kwon et al. (2021)",
)
def m_sharpness(
    objective: Objective,
    *,
    m: Annotated[Sequence[int], not_empty] | None = None,
    rho: float = 0.05,
    ascent_steps: int = 1,
    adaptive: bool = False,
    seed: Seed = 0,
) -> xr.Dataset:
    r"""S_m(ρ), the mean over disjoint groups of m examples of the largest rise of the group's loss within a distance ρ.

    `m`: group sizes, by default 1, 4, 16 and 64 as far as there are examples. The examples are put in a random order
    drawn from `seed`, then cut into groups of m; what is left over does not count (`groups` · m examples do). Returns
    `sharpness` (m,), its standard deviation and standard error over groups, and `groups`. `ascent_steps` of projected ascent
    approach the maximum: one is SAM's perturbation. `adaptive` measures ε relative to |θ|, entry by entry (ρ is then
    relative too, and of the order of 1). In units of the loss.

    Groups are computed together by `torch.func.vmap` where the model allows it, else one by one (attribute
    `vectorized`). BatchNorm is in the objective's mode. Batches may be tensors, or tuples and mappings of tensors with
    a row for each example; examples that the loss passes over (ignored targets) are left out. Cost for each m:
    `ascent_steps` gradients of all data and one evaluation more than that.

    Raises ValueError for m that is not between 1 and the number of examples, ρ that is not positive, fewer than one
    step; TypeError for batches that do not consist of rows; FloatingPointError where the loss of a group is not finite,
    or too small for its gradient.

    Args:
        objective: The loss, its model and data; or a checkpoint, which brings them.
        m: Sizes of the groups; 1, 4, 16 and 64 as far as there are examples if left out.
        rho: The distance, in the L2 norm of θ unless said otherwise.
        ascent_steps: Steps of projected ascent to a group's largest rise; one is SAM's.
        adaptive: Measure the distance relative to the weights, entry by entry.
        seed: What is drawn at random is drawn from it; at a checkpoint, with the run's own seed and the step.
    """
    if ascent_steps < 1 or not rho > 0 or not np.isfinite(rho):
        raise ValueError(
            f"expected at least 1 step and a positive, finite rho; got ascent_steps={ascent_steps} and {rho}"
        )
    examine(objective)
    examples, total = shuffled_examples(objective, seed)
    m = [size for size in (1, 4, 16, 64) if size <= total] if m is None else m
    for size in m:
        if not 1 <= size <= total:
            raise ValueError(f"m: expected group sizes between 1 and the number of examples, {total}; got {size}")
    theta = objective.theta
    scale = theta.abs() if adaptive else torch.ones_like(theta)
    rises, vectorized = [], True
    for size in m:
        count = total // size
        groups = groups_of(examples, count, size)
        rise, together = _largest_rises(objective, groups, size, theta, scale, rho, ascent_steps)
        vectorized &= together
        rises.append(rise.cpu().double().numpy())
    deviation = np.array([spread.deviation(rise) for rise in rises])
    counts = np.array([len(rise) for rise in rises])
    units = {"units": "loss"}
    return xr.Dataset(
        {
            "sharpness": ("m", np.array([rise.mean() for rise in rises]), {**units, "long_name": "m-sharpness S_m"}),
            "sharpness_sd": ("m", deviation, {**units, "long_name": "standard deviation over groups"}),
            "sharpness_stderr": (
                "m",
                deviation / np.sqrt(counts),
                {**units, "long_name": "standard error over groups of the m-sharpness"},
            ),
            "groups": ("m", counts, {"units": "1", "long_name": "groups averaged over"}),
        },
        coords={"m": ("m", list(m), {"units": "1", "long_name": "examples in a group, m"})},
        attrs={
            "vectorized": vectorized,
            "rho": rho,
            "rho_unit": "‖ε/θ‖₂, entry by entry" if adaptive else "‖ε‖₂",
        },
    )


def _largest_rises(
    objective: Objective, groups: Examples, size: int, theta: Tensor, scale: Tensor, rho: float, steps: int
) -> tuple[Tensor, bool]:
    """The largest rise of each group's loss, (groups,), and whether the groups were computed together."""

    def loss(point: Tensor, x: Any, y: Any) -> Tensor:
        return objective.batch_loss(objective.space.unflatten(point), Batch(x, y, size))

    def slope(point: Tensor, x: Any, y: Any) -> Tensor:
        blocks = objective.function.batch_gradient(objective.leaves(point), Batch(x, y, size))
        return objective.space.flatten(blocks)

    together = max(1, min(NUMBERS_AT_ONCE // len(theta), EXAMPLES_AT_ONCE // size))
    rises: list[Tensor] = []
    dims = (0, *row_dimensions(groups))
    with objective.running():
        parts = split_groups(groups, together)
        for some, (x, y) in tqdm(parts, desc=f"m-sharpness, m = {size}", delay=2, disable=None):
            base = theta.expand(some, -1)
            if together > 1:
                try:
                    mapped = vmap(loss, in_dims=dims), vmap(grad(loss), in_dims=dims)
                    rises.append(_ascend(*mapped, base, scale, x, y, rho, steps))
                except RuntimeError:  # an operation that vmap does not know: what is really wrong, the loop will raise
                    together = 1
            if together == 1:
                rises.append(_ascend(_one_by_one(loss), _one_by_one(slope), base, scale, x, y, rho, steps))
            examples = len(base) * size
            objective.record(forward=(steps + 1) * examples, gradient=steps * examples)
    return torch.cat(rises), together > 1


def _one_by_one(function: GroupLoss) -> GroupLoss:
    def mapped(points: Tensor, inputs: Any, targets: Any) -> Tensor:
        return torch.stack([function(p, *one_group((inputs, targets), i)) for i, p in enumerate(points)])

    return mapped


def _ascend(
    loss: GroupLoss, gradient: GroupLoss, base: Tensor, scale: Tensor, x: Any, y: Any, rho: float, steps: int
) -> Tensor:
    """Projected ascent in u = T⁻¹ε, all groups (g, ...) side by side; returns the largest rise of each, (g,)."""
    u = torch.zeros_like(base)
    with torch.no_grad():
        start = loss(base, x, y)
    _check_size(start)
    best = torch.full_like(start, -torch.inf)
    for _ in range(steps):
        slope = scale * gradient(base + scale * u, x, y).detach()
        # a group whose gradient is zero stays where it is; NaN and Inf go on, to be found in the loss
        u = u + rho * torch.where((slope == 0).all(1, keepdim=True), 0, directions_of(slope))
        distance = norm(u, keepdim=True)
        u = u * torch.where(distance > rho, rho / distance, torch.ones_like(distance))
        with torch.no_grad():
            best = torch.maximum(best, loss(base + scale * u, x, y) - start)
    if not bool(torch.isfinite(best).all()):
        raise FloatingPointError(
            f"the loss of a group of examples is not finite within the distance {rho:g}; choose a smaller rho"
        )
    return best


def _check_size(losses: Tensor) -> None:
    """Refuse losses of groups that are not finite, and those so small that their gradients underflow."""
    limits = torch.finfo(losses.dtype)
    if not bool(torch.isfinite(losses).all()):
        raise FloatingPointError(
            "the loss of a group of examples is not finite at the model's parameters; "
            "has training diverged, or does the data hold NaN or Inf?"
        )
    if bool(((losses != 0) & (losses.abs() < limits.tiny / limits.eps)).any()):
        raise FloatingPointError(
            f"the loss of a group of examples is below {limits.tiny / limits.eps:.0e}, where its gradient loses digits "
            f"in {str(losses.dtype).removeprefix('torch.')}; multiply the loss, or use dtype=torch.float64"
        )


@m_sharpness.figure
def plot_m_sharpness(dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
    """S_m against m; bands are one standard error, over seeds where there are any, else over groups."""
    return compare_m_sharpness({"": dataset}, ax)


def compare_m_sharpness(datasets: Mapping[str, xr.Dataset], ax: Axes | None = None) -> Axes:
    """S_m against m, a line for each method."""
    with figures.axes(ax) as ax:
        figures.compare(datasets, "sharpness", "sharpness_stderr", x="m", ax=ax)
        ax.set_xscale("log", base=2)
        sizes = sorted({int(size) for dataset in datasets.values() for size in dataset.m.values})
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.set_xlabel("examples in a group m")
        ax.set_ylabel("m-sharpness $S_m$ [loss]")
        if any(datasets):
            figures.legend(ax)
        return ax

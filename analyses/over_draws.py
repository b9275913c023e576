r"""One question asked of several random subsets of the data: each answer, their mean, and how far they spread.

    x̄ = Σ_i x_i / D,    s² = Σ_i (x_i − x̄)² / (D − 1),    stderr = s/√D,    x_i the answer over subset i

The stderr is that of x̄ as a mean over subsets *of this size*, not of what all the data would answer: the largest
eigenvalue of a part, a maximum, lies on average above that of the whole. What an analysis draws itself (probes,
batches, a starting vector) is drawn anew for every subset, so that s holds that too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analyses import figures
from analyses.estimators.spread import deviation

MEAN, SD, STDERR = "_over_draws", "_over_draws_sd", "_over_draws_stderr"
_ERRORS = ("_stderr", "_sd", "bound", "residual")  # of one answer: said beside it, not averaged
_SAMPLES = {"batch", "sample"}  # one answer's own samples: number 3 of one draw is nobody's partner in the next
_COSTS = ("evaluations", "gradient_evaluations", "hessian_products", "seconds", "matvecs", "verification_matvecs")


def over_draws(ask: Callable[[int], xr.Dataset], first: int, count: int) -> xr.Dataset:
    """The answers `ask(draw)` for `count` draws from `first` on, over `draw`, each as it would be asked for alone.

    For every number x that is no error itself `x_over_draws`, `x_over_draws_sd` and `x_over_draws_stderr`. Costs in the
    attributes are of all together; what else an answer says of itself and another says otherwise stands over `draw`, as
    `…_of_draw`. ValueError for less than one, and where a draw is all the data.
    """
    if count < 1:
        raise ValueError(f"draws: expected at least 1, got {count}")
    rows: list[xr.Dataset] = []
    for draw in range(first, first + count):
        rows.append(ask(draw))
        size, in_all = (rows[0].attrs[f"objective_{name}"] for name in ("examples", "examples_in_all"))
        if size >= in_all:
            raise ValueError(f"draws: expected fewer examples than all, of which every draw is the same; got {size}")
    attributes, differing = _merged([row.attrs for row in rows])
    found = xr.concat(rows, "draw", join="outer", combine_attrs="override")
    found = found.assign_coords(draw=range(first, first + count))
    found.attrs = attributes
    for said_name, values in differing.items():
        found[f"{said_name}_of_draw"] = ("draw", values, {"long_name": f"{said_name} of each draw"})
    own = {dim for row in rows for dim in row.indexes if not row.indexes[dim].equals(rows[0].indexes[dim])}
    for name in rows[0].data_vars:
        if rows[0][name].dtype.kind != "f" or str(name).endswith(_ERRORS) or {*rows[0][name].dims} & (_SAMPLES | own):
            continue
        dims, said = rows[0][name].dims, rows[0][name].attrs
        numbers = found[name].transpose("draw", *dims).values
        spread = deviation(numbers)
        for ending, number, words in (
            (MEAN, numbers.mean(0), "mean over draws of the"),
            (SD, spread, "standard deviation over draws of the"),
            (STDERR, spread / np.sqrt(count), "standard error over draws of the mean"),
        ):
            described = {"units": said.get("units", "1"), "long_name": f"{words} {said.get('long_name', name)}"}
            found[f"{name}{ending}"] = (dims, number, described)
    over = f"{count} random subsets of {size} of {in_all} examples; not the error of a number of all the data"
    return found.assign_attrs(draws=count, error_over_draws=over)


def _merged(attributes: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The attributes of all together, and those by name in which they differ."""
    together, differing = dict(attributes[0]), dict[str, list[Any]]()
    together.pop("draw", None)  # the coordinate has it
    for name in together:
        values = [one.get(name, "") for one in attributes]
        if name in _COSTS:
            together[name] = sum(values)
        elif any(not np.array_equal(value, values[0], equal_nan=_number(value)) for value in values):
            differing[name] = values if all(map(_number, values)) else list(map(str, values))
    for name in differing:
        together.pop(name)
    if "converged" in differing:
        together["converged"] = min(differing["converged"])
    return together, differing


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)


def averaged(dataset: xr.Dataset) -> str | None:
    """The first number of a Dataset that has a mean over draws; None where it has none."""
    return next((str(name) for name in dataset.data_vars if f"{name}{MEAN}" in dataset), None)


def drawable(dataset: xr.Dataset) -> bool:
    """Whether that number is one a draw, or few: `plot_draws` shows them."""
    name = averaged(dataset)
    return name is not None and dataset[name].ndim <= 2 and dataset[name].size <= 5 * dataset.sizes["draw"]


def plot_draws(dataset: xr.Dataset, name: str | None = None, ax: Axes | None = None) -> Axes:
    """A number of each draw with its own error, `name_stderr` or a bound, and the mean ± standard deviation over draws.

    `name` is a variable with at most one more dimension; the first that has a mean over draws if left out.
    """
    name = name or averaged(dataset)
    if name is None or f"{name}{MEAN}" not in dataset or dataset[name].ndim > 2 or "draw" not in dataset[name].dims:
        raise ValueError(f"expected a variable over draw and at most one more dimension, got {name}")
    error = next((e for e in (f"{name}_stderr", f"{name}_bound", "error_bound") if e in dataset), None)
    if error is not None and dataset[error].dims != dataset[name].dims:
        error = None
    other = next((dim for dim in dataset[name].dims if dim != "draw"), None)
    lines: list[tuple[dict[Any, Any], str | None]] = [({}, None)]
    if other is not None:
        lines = [({other: v}, f"{other} = {v}") for v in dataset[other].values]
    with figures.axes(ax) as ax:
        for chosen, text in lines:
            one = dataset.sel(chosen)
            mean, sd = float(one[f"{name}{MEAN}"]), float(one[f"{name}{SD}"])
            drawn = figures.points(ax, one.draw, one[name], None if error is None else one[error], text, marker="o")
            ax.axhline(mean, color=drawn, linewidth=0.8, zorder=0)
            ax.axhspan(mean - sd, mean + sd, color=drawn, alpha=0.2, linewidth=0, zorder=0)
        ax.set(xlabel="draw of the data (line, band: mean ± sd)", ylabel=figures.label(dataset[name]))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figures.legend(ax)
        return ax

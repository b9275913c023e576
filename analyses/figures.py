"""How every figure here looks, and the few shapes they share: a line with a band, a legend, a saved file.

One column of a journal wide (3.4 in), 8 pt text, the Okabe-Ito palette with a dash and a marker per line so that the
lines stay apart in greyscale. Colours follow the order in which lines are drawn: draw the methods in one order
everywhere. A saved file depends on the data alone: no time and no version is written into it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from landscape.store.atomic_file import write_bytes

COLUMN = 3.4  # inches: one column of a two-column page
STYLE = Path(__file__).with_name("landscape.mplstyle")


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn inside this context has the toolkit's style; settings outside are left as they were."""
    with plt.style.context(STYLE):
        yield


@contextmanager
def axes(ax: Axes | None = None) -> Iterator[Axes]:
    """The given axes, or those of a new figure one column wide, with the style switched on while they are drawn."""
    with style():
        yield plt.subplots()[1] if ax is None else ax


def band(ax: Axes, x: Any, mean: Any, stderr: Any = None, label: str | None = None, **line: Any) -> Line2D:
    """Draw `mean` against `x`, with mean ± `stderr` as a translucent band where a standard error is known."""
    x, mean = np.asarray(x), np.asarray(mean)
    if x.size > 15:
        line = {
            "markevery": -(-x.size // 10)
        } | line  # a dense line keeps its shape; ten markers tell it from the others
    (drawn,) = ax.plot(x, mean, label=label, **line)
    if stderr is not None and np.isfinite(stderr).any():
        stderr = np.asarray(stderr)
        ax.fill_between(x, mean - stderr, mean + stderr, color=drawn.get_color(), alpha=0.2, linewidth=0)
    return drawn


def points(ax: Axes, positions: Any, mean: Any, stderr: Any = None, label: str | None = None, **marks: Any) -> Any:
    """Draw `mean` as markers with error bars ± `stderr`, for quantities that no line should join; returns the colour."""
    drawn = ax.errorbar(
        np.atleast_1d(positions), np.atleast_1d(mean), yerr=stderr, label=label, **{"linestyle": "none", **marks}
    )
    return drawn.lines[0].get_color()


def legend(ax: Axes, *, columns: int = 3) -> None:
    """A legend above the axes, where it can cover nothing; none where nothing has a label."""
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        longest = max(map(len, labels))
        columns = min(columns, len(labels), max(1, 54 // (longest + 8)))
        ax.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=columns,
            columnspacing=1.0,
            borderaxespad=0.2,
        )


def label(variable: xr.DataArray) -> str:
    """An axis label from a variable's attributes: its long name, and its unit in brackets unless a pure number."""
    name = str(variable.attrs.get("long_name", variable.name))
    units = variable.attrs.get("units", "1")
    return name if units == "1" else f"{name} [{units}]"


def over_seeds(dataset: xr.Dataset, name: str, stderr: str | None = None) -> tuple[xr.DataArray, xr.DataArray | None]:
    """Mean and standard error of variable `name` over the dimension `seed`.

    Without that dimension: the variable itself and `dataset[stderr]`, the uncertainty inside the one run, if there is
    one. Over fewer than two seeds the standard error is unknown (NaN), not zero.
    """
    variable = dataset[name]
    if "seed" not in variable.dims:
        return variable, None if stderr is None else dataset[stderr]
    count = variable.notnull().sum("seed")
    mean = variable.mean("seed", keep_attrs=True)
    squares = ((variable - mean) ** 2).sum("seed")
    return mean, (squares / (count - 1).where(count > 1) / count) ** 0.5


def require(datasets: Mapping[str, xr.Dataset], name: str) -> None:
    """ValueError that says which method's Dataset has no variable `name`, and why if it knows."""
    for method, dataset in datasets.items():
        if name not in dataset:
            reason = dataset.attrs.get("left_out", "it was not measured")
            raise ValueError(f"{method}: there is no {name!r} to draw ({reason}); leave this method out")


def require_one_mode(datasets: Mapping[str, xr.Dataset]) -> None:
    """ValueError where BatchNorm took the batch's statistics in one Dataset and running ones in another."""
    statistics = {method: str(dataset.attrs.get("objective_batch_norm", "")) for method, dataset in datasets.items()}
    known = {method: kind for method, kind in statistics.items() if kind.endswith(" statistics")}
    if len(set(known.values())) > 1:
        found = ", ".join(f"{method}: {kind}" for method, kind in known.items())
        raise ValueError(
            f"expected one mode of BatchNorm, got {found}; these are different functions of the weights: measure all "
            'with one `mode` of the Objective ("eval" or "batch")'
        )


def compare(
    datasets: Mapping[str, xr.Dataset],
    name: str,
    stderr: str | None = None,
    *,
    x: str,
    ax: Axes,
    **selection: Any,
) -> None:
    """One line per method for variable `name` along dimension `x`, with a band of one standard error.

    The standard error is that over seeds where there are any, else the variable `stderr` of the one run. `selection`
    picks one entry of further dimensions (`direction="gradient"`). Datasets of different BatchNorm statistics are a
    ValueError. Where a method has no `x` at all, one checkpoint
    instead of a series, each is one marker with an error bar at its own place on a categorical axis.
    """
    require(datasets, name)
    require_one_mode(datasets)
    scattered = any(x not in dataset[name].dims for dataset in datasets.values())
    for place, (method, dataset) in enumerate(datasets.items()):
        chosen = dataset.sel(**selection) if selection else dataset
        mean, error = over_seeds(chosen, name, stderr)
        if scattered:
            cycle = list(plt.rcParams["axes.prop_cycle"])[place % len(plt.rcParams["axes.prop_cycle"])]
            points(ax, place, mean, error, color=cycle["color"], marker=cycle["marker"])
        else:
            band(ax, mean[x], mean, error, method)
    if scattered:
        ax.set_xticks(range(len(datasets)), list(datasets))
        ax.set_xlim(-0.5, len(datasets) - 0.5)
    elif x == "step":
        ax.set_xlabel("training step")


def save(figure: Figure, path: str | Path) -> tuple[Path, Path]:
    """Write `path` as PNG (300 dpi) and as PDF; returns both paths. The same figure gives the same bytes.

    `path` may be given with or without a suffix; its folder is made if missing.
    """
    stem = Path(path).with_suffix("") if Path(path).suffix in {".png", ".pdf"} else Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".pdf")
    with style():
        for file, options in (
            (png, {"dpi": 300, "metadata": {"Software": None}}),
            (pdf, {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}}),
        ):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=file.suffix.removeprefix("."), **options)
            write_bytes(file, drawn.getbuffer())  # whole or not at all
    return png, pdf

"""One number of one run, and the file and dataset that it stands in: from a metric, or from the answer to an ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analyses.saved import read
from analyses.studies.claim import Ask, Value
from analyses.studies.plan import answer_file, steps_of
from landscape.runs.run import Run

TOLERANCE = 1e-6  # of a coordinate that is a number


@dataclass(frozen=True)
class Number:
    """A value, and the file and dataset it was read from; NaN where there is none, and `dataset` says why."""

    value: float
    file: Path
    dataset: str


def value_of(
    value: Value, run: Run, asks: dict[str, Ask], read_answer: Callable[[Path, str], xr.Dataset] = read
) -> Number:
    """What `value` is for a finished run."""
    if value.ask is None:
        return _metric(value, run)
    ask = asks[value.ask]
    step = {"last": run.steps[-1], "first": run.steps[0]}.get(str(value.at), value.at)
    if step not in steps_of(ask, run):
        return Number(math.nan, run.path, f"{ask.name} is not asked at step {step}")
    file = answer_file(run, ask, int(step))
    if not file.exists():
        return Number(math.nan, run.path, f"{ask.name} at step {step} has no answer")
    try:
        place, found = entry(read_answer(file, ask.analysis.rpartition(":")[2]), str(value.variable), value.sel)
    except (KeyError, ValueError) as error:
        return Number(math.nan, file, str(error.args[0]))
    return Number(found, file, place)


def entry(dataset: xr.Dataset, variable: str, sel: dict[str, Any]) -> tuple[str, float]:
    """Where a number stands in a Dataset, as `/sharpness[2, 7], direction random, radius 0.5`, and the number.

    Raises:
        KeyError: There is no such variable or coordinate.
        ValueError: Not one number: a dimension is left that `sel` does not choose.
    """
    if variable not in dataset.variables:
        known = ", ".join(sorted(str(name) for name in dataset.data_vars))
        raise KeyError(f"{dataset.attrs.get('analysis', 'the answer')} has no variable {variable!r}; it has {known}")
    array = dataset[variable]
    unknown = [key for key in sel if key not in array.dims]
    left = [dim for dim in array.dims if dim not in sel]
    if unknown or left:
        dims = ", ".join(map(str, array.dims)) or "none"
        raise ValueError(f"{variable}: expected a sel of the dimensions {dims}, got {', '.join(sel) or 'none'}")
    index = tuple(_position(dataset, str(dim), sel[str(dim)]) for dim in array.dims)
    place = "".join(f", {dim} {sel[str(dim)]}" for dim in array.dims)
    where = f"[{', '.join(map(str, index))}]" if index else ""
    return f"/{variable}{where}{place}", float(array.values[index])


def _position(dataset: xr.Dataset, dim: str, at: Any) -> int:
    """The position along `dim` of the coordinate `at`; of a dimension without coordinates the position is `at` itself."""
    if dim not in dataset.coords:
        if type(at) is int and 0 <= at < dataset.sizes[dim]:
            return at
        raise KeyError(f"expected {dim} from 0 to {dataset.sizes[dim] - 1}, got {at!r}")
    there = dataset[dim].values
    if isinstance(at, str) or there.dtype.kind not in "iuf":
        same = np.array([str(name) == str(at) for name in there])
    else:
        same = np.isclose(there, at, rtol=0, atol=TOLERANCE)
    if not same.any():
        raise KeyError(f"expected {dim} among {', '.join(map(str, there.tolist()))}, got {at!r}")
    return int(same.argmax())


def _metric(value: Value, run: Run) -> Number:
    series = run.metrics.get(str(value.metric))
    if series is None or not series.size:
        return Number(math.nan, run.path, f"/metrics/{value.metric} was not recorded")
    values = series.values
    if value.at == "mean":
        known = values[np.isfinite(values)]
        mean = float(known.mean()) if known.size else math.nan
        return Number(mean, run.path / "checkpoints", f"/metrics/{value.metric}, mean over all files")
    if value.at == "peak" and not np.isfinite(values).any():
        return Number(math.nan, run.path, f"/metrics/{value.metric} has no finite value")
    index = len(values) - 1 if value.at == "last" else int(np.nanargmax(values))
    step = int(series[series.dims[0]][index])
    file = next((run.checkpoint_path(s) for s in run.steps if s >= step), run.path)
    return Number(float(values[index]), file, f"/metrics/{value.metric}, step {step}")

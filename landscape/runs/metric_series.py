"""Metrics: named series of numbers, each with its own steps, as HDF5 dimension scales and as one Dataset.

Series recorded at the same steps share a coordinate. The longest coordinate is `step` (what is recorded at every step);
the others are `<first name>_step`, after the first of the series that share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np
import xarray as xr

from landscape.store.guarded_hdf5 import Guarded, Request
from landscape.store.tree_codec import link_name, write_text

Series = tuple[np.ndarray, np.ndarray]  # steps (k,) int64 and values (k,) float64
"""Steps (k,) int64, rising, and values (k,) float64."""

_INT, _FLOAT = np.dtype("<i8"), np.dtype("<f8")


def checked(name: str, series: Series) -> Series:
    """`series` as int64 and float64.

    Raises:
        ValueError: Not two vectors of one length, or the steps do not rise.
    """
    steps, values = np.asarray(series[0], _INT), np.asarray(series[1], _FLOAT)
    if steps.ndim != 1 or steps.shape != values.shape or (np.diff(steps) <= 0).any():
        raise ValueError(
            f"metric {name}: expected steps that rise and as many values, got shapes {steps.shape} and {values.shape}"
        )
    return steps, values


def coordinates(series: Mapping[str, Series]) -> dict[str, list[str]]:
    """Names of the series under each coordinate: `step` and `<first name>_step`."""
    together: dict[tuple[int, bytes], list[str]] = {}
    for name, (steps, _) in series.items():
        together.setdefault((len(steps), steps.tobytes()), []).append(name)
    groups = list(together.values())
    longest = max(groups, key=lambda group: len(series[group[0]][0]), default=None)
    return {"step" if group is longest else f"{group[0]}_step": group for group in groups}


def as_dataset(series: Mapping[str, Series], *, examples: object = None) -> xr.Dataset:
    """All series as one Dataset, each along its coordinate; `examples`: how many those of the training split are over."""
    variables = {}
    for coordinate, names in coordinates(series).items():
        variables[coordinate] = xr.Variable(coordinate, series[names[0]][0])
        variables |= {name: xr.Variable(coordinate, series[name][1]) for name in names}
    for name, variable in variables.items() if examples is not None else ():
        if name.startswith("train_") and name not in variable.dims:
            variable.attrs["examples"] = examples
    return xr.Dataset(variables)


def join(segments: Iterable[Mapping[str, Series]]) -> dict[str, Series]:
    """One series per name from segments in any order; where they overlap they agree."""
    pieces: dict[str, list[Series]] = {}
    for segment in segments:
        for name, series in segment.items():
            pieces.setdefault(name, []).append(series)
    joined = {}
    for name, parts in pieces.items():
        steps, first = np.unique(np.concatenate([steps for steps, _ in parts]), return_index=True)
        joined[name] = (steps, np.concatenate([values for _, values in parts])[first])
    return joined


def write_metrics(file: h5py.Group, series: Mapping[str, Series]) -> None:
    """Store the series under `/metrics`, their coordinates as dimension scales, who has which in `/layout/metrics`.

    The layout also says at which byte the numbers of each begin, so that `read_metrics` need not open every dataset:
    a run has thousands of segments of a dozen series each.
    """
    series = {name: checked(name, s) for name, s in series.items()}
    group, layout = file.create_group("metrics"), {}
    for coordinate, names in coordinates(series).items():
        steps = series[names[0]][0]
        scale = group.create_dataset(link_name(coordinate), data=steps)
        scale.make_scale(link_name(coordinate))
        columns = {coordinate: _position(scale)}
        for name in names:
            values = group.create_dataset(link_name(name), data=series[name][1])
            values.dims[0].attach_scale(scale)
            columns[name] = _position(values)
        layout[coordinate] = {"length": len(steps), "at": columns}
    write_text(file.require_group("layout"), "metrics", json.dumps(layout))


def read_metrics(file: Guarded) -> dict[str, Series]:
    """The series that `write_metrics` stored."""
    series, _ = _read(file)
    return series


def verify_metrics(file: Guarded) -> None:
    """See that the datasets under `/metrics`, as HDF5 finds them, are the series that `read_metrics` reads."""
    series, coordinate_steps = _read(file)
    found = {link_name(name): values for name, (_, values) in series.items()}
    found |= {link_name(name): steps for name, steps in coordinate_steps.items()}
    if set(file.names("metrics")) != found.keys():
        raise file.refuse("/metrics does not hold the series that its layout names")
    stored = file.arrays(Request(("metrics", name), array.dtype, array.shape) for name, array in found.items())
    for (name, expected), array in zip(found.items(), stored, strict=True):
        if array.tobytes() != expected.tobytes():
            raise file.refuse(f"/metrics/{name} is not where its layout says")


def _read(file: Guarded) -> tuple[dict[str, Series], dict[str, np.ndarray]]:
    """The series, and the steps of each coordinate."""
    layout: dict[str, Any] = json.loads(file.text("layout", "metrics"))
    columns = [(coordinate, name) for coordinate, entry in layout.items() for name in entry["at"]]
    arrays = file.numbers(
        (layout[coordinate]["at"][name], _INT if name == coordinate else _FLOAT, layout[coordinate]["length"])
        for coordinate, name in columns
    )
    found = dict(zip(columns, arrays, strict=True))
    steps = {coordinate: found[coordinate, coordinate] for coordinate in layout}
    for coordinate, values in steps.items():
        if (np.diff(values) <= 0).any():
            raise file.refuse(f"/metrics/{coordinate}: expected steps that rise")
    series = {name: (steps[coordinate], values) for (coordinate, name), values in found.items() if name != coordinate}
    if len(series) != len(columns) - len(layout):
        raise file.refuse("/layout/metrics: expected each series once")
    return series, steps


def _position(dataset: h5py.Dataset) -> int | None:
    return int(dataset.id.get_offset()) if dataset.size else None

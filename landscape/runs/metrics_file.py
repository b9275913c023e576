"""The metrics of checkpoints that were dropped, in one sealed file: `runs/<name>/metrics/to-00001200.h5`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from landscape.runs.metric_series import Series, read_metrics, verify_metrics, write_metrics
from landscape.store.guarded_hdf5 import Guarded, open_guarded
from landscape.store.sealed_file import new_sealed_file

FORMAT = "landscape-toolkit metrics"
VERSION = 1


def write_metrics_file(path: Path, series: Mapping[str, Series]) -> None:
    """Write `series` to `path`, atomically."""
    with new_sealed_file(path) as file:
        file.attrs["format"] = np.bytes_(FORMAT)
        file.attrs["format_version"] = VERSION
        write_metrics(file, series)


def read_metrics_file(path: Path) -> dict[str, Series]:
    """The series in `path`; RefusedFile if it is not as it was written."""
    with open_guarded(path) as file:
        _check_format(file)
        return read_metrics(file)


def verify_metrics_file(path: Path) -> None:
    """Read all of `path`, as a checkpoint is verified; RefusedFile if any of it is not as it was written."""
    with open_guarded(path) as file:
        file.verify()
        _check_format(file)
        verify_metrics(file)


def _check_format(file: Guarded) -> None:
    if (file.attribute("format"), file.attribute("format_version")) != (FORMAT, VERSION):
        raise file.refuse(f"expected {FORMAT}, version {VERSION}")

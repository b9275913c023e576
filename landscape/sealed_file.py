"""A new HDF5 file that appears whole, sealed and on the disk, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from landscape.atomic_file import atomic_file
from landscape.digest import USER_BLOCK, seal


@contextlib.contextmanager
def new_sealed_file(path: str | Path) -> Iterator[h5py.File]:
    """An open HDF5 file to fill; when the block ends it is sealed and `path` is it, if the block raises it is gone."""
    with atomic_file(path) as temporary:
        # v108: readable since HDF5 1.8; no lock on a temporary file that nobody else knows
        with h5py.File(temporary, "w", userblock_size=USER_BLOCK, libver=("v108", "v108"), locking=False) as file:
            yield file
        seal(temporary)

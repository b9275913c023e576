"""A new HDF5 file that appears whole, sealed and on the disk, or not at all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import h5py

from landscape.atomic_file import atomic_file
from landscape.digest import USER_BLOCK, seal


@contextlib.contextmanager
def new_sealed_file(path: str | Path) -> Iterator[h5py.File]:
    """An open HDF5 file to fill; when the block ends it is sealed and `path` is it, if the block raises it is gone.

    Raises:
        OSError: The disk is full, the folder not writable, …; names `path`.
    """
    with atomic_file(path) as temporary:
        try:
            # v108: readable since HDF5 1.8; no lock on a temporary file that nobody else knows
            with h5py.File(temporary, "w", userblock_size=USER_BLOCK, libver=("v108", "v108"), locking=False) as file:
                yield file
        except (RuntimeError, ValueError) as error:
            system = re.search(r"errno = (\d+)", str(error))
            if system is None:
                raise
            raise OSError(int(system[1]), str(error)) from error  # HDF5 has several kinds of error for a full disk
        seal(temporary)

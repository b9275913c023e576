"""A new HDF5 file that appears whole, sealed and on the disk, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from landscape.store.atomic_file import atomic_file
from landscape.store.digest import USER_BLOCK, seal
from landscape.store.hdf5_target import Hdf5Target


@contextlib.contextmanager
def new_sealed_file(path: str | Path) -> Iterator[h5py.File]:
    """An open HDF5 file to fill; when the block ends it is sealed and `path` is it, if the block raises it is gone.

    Raises:
        OSError: The disk is full, the folder not writable, …; names `path`.
    """
    with atomic_file(path) as temporary:
        with contextlib.closing(Hdf5Target(temporary)) as target:
            try:
                # v108: readable since HDF5 1.8
                with h5py.File(target, "w", userblock_size=USER_BLOCK, libver=("v108", "v108")) as file:
                    yield file
            except BaseException:
                if target.failure is None:
                    raise  # of the block
        if target.failure is not None:  # after HDF5 has closed the file
            raise target.failure
        seal(temporary)

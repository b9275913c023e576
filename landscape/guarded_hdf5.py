"""HDF5 files read as if their author wished us ill: hard links, plain arrays, sizes checked before any allocation.

The seal (`digest.py`) stops damage; a file that somebody made and sealed on purpose gets as far as here. No soft or
external link is followed, no external or virtual storage opened, no filter run, no variable-length type interpreted,
and no array is larger than the file it is in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from landscape.digest import SealedFile
from landscape.refused_file import RefusedFile

_KINDS = "iufS"  # integers, floats, strings of fixed length


class Guarded:
    """An open HDF5 file and the only ways to look into it. Paths are tuples of link names."""

    def __init__(self, path: Path, file: h5py.File, sealed: SealedFile) -> None:
        self.path = path
        self.root = file.id
        self._sealed = sealed
        self._limit = sealed.length
        self._handed_out = 0

    def refuse(self, reason: str) -> RefusedFile:
        """The error to raise for this file."""
        return RefusedFile(self.path, reason)

    def verify(self) -> None:
        """Check every byte against the seal."""
        self._sealed.verify()

    def has(self, *path: str) -> bool:
        """Whether there is an object of this path, all hard links."""
        here = h5py.h5g.open(self.root, b"/")
        for i, name in enumerate(path):
            if not (isinstance(here, h5py.h5g.GroupID) and here.links.exists(name.encode())):
                return False
            here = self._step(here, name, path[: i + 1])
        return True

    def names(self, *path: str) -> list[str]:
        """The link names in a group, in the order of HDF5's index."""
        group = self._open(path)
        if not isinstance(group, h5py.h5g.GroupID):
            raise self.refuse(f"expected /{'/'.join(path)} to be a group")
        return [name.decode() for name in group]

    def array(self, *path: str, dtype: np.dtype | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The dataset of this path, of exactly this dtype and shape where they are given."""
        where = "/" + "/".join(path)
        dataset = self._open(path)
        if not isinstance(dataset, h5py.h5d.DatasetID):
            raise self.refuse(f"expected {where} to be a dataset")
        found = (np.dtype(dataset.dtype), tuple(dataset.shape))
        if found[0].kind not in _KINDS:
            raise self.refuse(f"{where}: expected numbers or text of fixed length, got type {found[0]}")
        if dtype is not None and found[0] != dtype:
            raise self.refuse(f"{where}: expected type {dtype}, got {found[0]}")
        if shape is not None and found[1] != shape:
            raise self.refuse(f"{where}: expected shape {shape}, got {found[1]}")
        self._check_storage(dataset, where, *found)
        array = np.empty(found[1], found[0])
        if array.size:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
        return array

    def text(self, *path: str) -> str:
        """A dataset that holds one string of fixed length, UTF-8."""
        array = self.array(*path, shape=())
        if array.dtype.kind != "S":
            raise self.refuse(f"expected /{'/'.join(path)} to be text, got type {array.dtype}")
        return bytes(array[()]).decode()

    def attributes(self) -> dict[str, str | int | float | bool]:
        """The attributes of the file: one string, number or truth value each."""
        return {name: self._attribute(name) for name in self._attribute_names()}

    def _attribute_names(self) -> list[str]:
        return [h5py.h5a.open(self.root, index=i).name.decode() for i in range(h5py.h5a.get_num_attrs(self.root))]

    def _attribute(self, name: str) -> str | int | float | bool:
        attribute = h5py.h5a.open(self.root, name.encode())
        dtype = np.dtype(attribute.dtype)
        if attribute.shape != () or dtype.kind not in _KINDS + "b" or dtype.hasobject or dtype.itemsize > self._limit:
            raise self.refuse(
                f"attribute {name}: expected one string or number, got {dtype} of shape {attribute.shape}"
            )
        value = np.empty((), dtype)
        attribute.read(value)
        return bytes(value[()]).decode() if dtype.kind == "S" else value.item()

    def _open(self, path: tuple[str, ...]) -> h5py.h5g.GroupID | h5py.h5d.DatasetID:
        here = h5py.h5g.open(self.root, b"/")
        for i, name in enumerate(path):
            if not isinstance(here, h5py.h5g.GroupID):
                raise self.refuse(f"expected /{'/'.join(path[:i])} to be a group")
            here = self._step(here, name, path[: i + 1])
        return here

    def _step(self, group: h5py.h5g.GroupID, name: str, path: tuple[str, ...]) -> h5py.h5g.GroupID | h5py.h5d.DatasetID:
        where, link = "/" + "/".join(path), name.encode()
        if "/" in name or not group.links.exists(link):
            raise self.refuse(f"incomplete: {where} is missing")
        if group.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            raise self.refuse(f"{where} is a soft or external link; only hard links are followed")
        return h5py.h5o.open(group, link)

    def _check_storage(self, dataset: h5py.h5d.DatasetID, where: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        size = math.prod(shape) * dtype.itemsize
        self._handed_out += size
        if self._handed_out > self._limit:
            raise self.refuse(f"{where}: its {size} bytes and what was read before are more than the file has")
        layout = dataset.get_create_plist()
        if layout.get_external_count() or layout.get_nfilters():
            raise self.refuse(f"{where}: external storage and filters are never used in these files")
        if layout.get_layout() == h5py.h5d.CONTIGUOUS:
            start = dataset.get_offset()
            if size and (dataset.get_storage_size() != size or start is None or start + size > self._limit):
                raise self.refuse(f"{where}: its storage is not {size} bytes inside the file")
        elif layout.get_layout() != h5py.h5d.COMPACT:
            raise self.refuse(f"{where}: expected contiguous storage, got chunked or virtual")


@contextlib.contextmanager
def open_guarded(path: str | Path) -> Iterator[Guarded]:
    """Open a sealed file for reading, without locks, closed again at the end of the block.

    Raises:
        RefusedFile: Not ours, damaged, incomplete, or of a structure that is never interpreted. Whatever the HDF5
            library or the parsing in the block stumbles over becomes this error.
    """
    path = Path(path)
    with SealedFile(path) as sealed:
        try:
            with h5py.File(sealed, "r") as file:
                yield Guarded(path, file, sealed)
        except RefusedFile:
            raise
        except Exception as error:
            if sealed.damage is not None:
                raise sealed.damage from error
            raise RefusedFile(path, f"unreadable: {type(error).__name__}: {error}") from error

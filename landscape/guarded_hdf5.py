"""HDF5 files read as if their author wished us ill: hard links, plain arrays, sizes checked before any allocation.

The seal (`digest.py`) stops damage; a file that somebody made and sealed on purpose gets as far as here. No soft or
external link is followed, no external or virtual storage opened, no filter run, no variable-length type interpreted,
and no array is larger than the file it is in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from landscape.refused_file import RefusedFile
from landscape.sealed_reader import SealedFile

_KINDS = "iufS"  # integers, floats, strings of fixed length


class Request(NamedTuple):
    """A dataset to read; what is not None must be exactly so."""

    path: tuple[str, ...]
    dtype: np.dtype | None = None
    shape: tuple[int, ...] | None = None


class Guarded:
    """A group of an open HDF5 file, the whole of it by default, and the only ways to look into it.

    Paths are tuples of link names, from that group on.
    """

    def __init__(self, path: Path, file: h5py.File, sealed: SealedFile) -> None:
        self.path = path
        self.root = h5py.h5g.open(file.id, b"/")
        self._groups: dict[tuple[str, ...], h5py.h5g.GroupID] = {(): self.root}
        self._sealed = sealed
        self._limit = sealed.length
        self._handed_out = 0

    def refuse(self, reason: str) -> RefusedFile:
        """The error to raise for this file."""
        return RefusedFile(self.path, reason)

    def enter(self, within: tuple[str, ...]) -> Guarded:
        """Look from the group of this path on."""
        root = self._open(within)
        if not isinstance(root, h5py.h5g.GroupID):
            raise self.refuse(f"expected /{'/'.join(within)} to be a group")
        self.root, self._groups = root, {(): root}
        return self

    def verify(self) -> None:
        """Check every byte against the seal."""
        self._sealed.verify()

    def has(self, name: str) -> bool:
        """Whether the root group has a link of this name."""
        return self.root.links.exists(name.encode())

    def names(self, *path: str) -> list[str]:
        """The link names in a group, in the order of HDF5's index."""
        group = self._open(path)
        if not isinstance(group, h5py.h5g.GroupID):
            raise self.refuse(f"expected /{'/'.join(path)} to be a group")
        return [name.decode() for name in group]

    def array(self, *path: str, dtype: np.dtype | None = None, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The dataset of this path, of exactly this dtype and shape where they are given."""
        return self.arrays([Request(path, dtype, shape)])[0]

    def arrays(self, requests: Iterable[Request]) -> list[np.ndarray]:
        """Many datasets at once: all are checked, then one pass over the file fills them.

        Paths that are links to one dataset give one and the same array.
        """
        arrays, pieces = [], []
        known: dict[int, np.ndarray] = {}
        for request in requests:
            dataset, dtype, shape = self._checked(request)
            address = h5py.h5o.get_info(dataset).addr
            if address not in known:
                position = self._storage(dataset, request.path, math.prod(shape) * dtype.itemsize)
                array = known[address] = np.empty(shape, dtype)
                if position is not None:
                    pieces.append((position, array.reshape(-1).view(np.uint8).data))
                elif array.size:
                    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
            arrays.append(known[address])
        self._sealed.fill(pieces)
        return arrays

    def numbers(self, position: int | None, dtype: np.dtype, count: int) -> np.ndarray:
        """`count` numbers that begin at byte `position` of the file; None where there are none."""
        size = count * dtype.itemsize
        if count < 0 or (position is None) != (count == 0) or not 0 <= (position or 0) <= self._limit - size:
            raise self.refuse(f"{count} numbers at byte {position} do not lie inside the file")
        array = np.empty(count, dtype)
        if position is not None:
            self._sealed.fill([(position, array.view(np.uint8).data)])
        return array

    def _checked(self, request: Request) -> tuple[h5py.h5d.DatasetID, np.dtype, tuple[int, ...]]:
        dataset = self._open(request.path)
        where = "/" + "/".join(request.path)
        if not isinstance(dataset, h5py.h5d.DatasetID):
            raise self.refuse(f"expected {where} to be a dataset")
        dtype, shape = np.dtype(dataset.dtype), tuple(dataset.shape)
        if dtype.kind not in _KINDS:
            raise self.refuse(f"{where}: expected numbers or text of fixed length, got type {dtype}")
        if request.dtype is not None and dtype != request.dtype:
            raise self.refuse(f"{where}: expected type {request.dtype}, got {dtype}")
        if request.shape is not None and shape != request.shape:
            raise self.refuse(f"{where}: expected shape {request.shape}, got {shape}")
        return dataset, dtype, shape

    def _storage(self, dataset: h5py.h5d.DatasetID, path: tuple[str, ...], size: int) -> int | None:
        """Where in the file the numbers are; None for none, or a few in the dataset's own header (compact)."""
        where = "/" + "/".join(path)
        self._handed_out += size
        if self._handed_out > self._limit:
            raise self.refuse(f"{where}: its {size} bytes and what was read before are more than the file has")
        layout = dataset.get_create_plist()
        if layout.get_external_count() or layout.get_nfilters():
            raise self.refuse(f"{where}: external storage and filters are never used in these files")
        if layout.get_layout() == h5py.h5d.COMPACT or not size:
            return None
        if layout.get_layout() != h5py.h5d.CONTIGUOUS:
            raise self.refuse(f"{where}: expected contiguous storage, got chunked or virtual")
        start = dataset.get_offset()
        if start is None or dataset.get_storage_size() != size or start + size > self._limit:
            raise self.refuse(f"{where}: its storage is not {size} bytes inside the file")
        return int(start)

    def text(self, *path: str) -> str:
        """A dataset that holds one string of fixed length, UTF-8."""
        array = self.array(*path, shape=())
        if array.dtype.kind != "S":
            raise self.refuse(f"expected /{'/'.join(path)} to be text, got type {array.dtype}")
        return bytes(array[()]).decode()

    def attributes(self) -> dict[str, str | int | float | bool | None]:
        """The attributes of the file: one string, number or truth value each."""
        count = h5py.h5a.get_num_attrs(self.root)
        names = [h5py.h5a.open(self.root, index=i).name.decode() for i in range(count)]
        return {name: self.attribute(name) for name in names}

    def attribute(self, name: str) -> str | int | float | bool | None:
        """One attribute of the file; None if there is none of this name."""
        if not h5py.h5a.exists(self.root, name.encode()):
            return None
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
        if path not in self._groups:
            parent = self._open(path[:-1])
            if not isinstance(parent, h5py.h5g.GroupID):
                raise self.refuse(f"expected /{'/'.join(path[:-1])} to be a group")
            opened = self._step(parent, path)
            if not isinstance(opened, h5py.h5g.GroupID):
                return opened
            self._groups[path] = opened
        return self._groups[path]

    def _step(self, group: h5py.h5g.GroupID, path: tuple[str, ...]) -> h5py.h5g.GroupID | h5py.h5d.DatasetID:
        link = path[-1].encode()
        try:
            kind = group.links.get_info(link).type if b"/" not in link else None
        except KeyError:
            kind = None
        if kind != h5py.h5l.TYPE_HARD:
            where = "/" + "/".join(path)
            raise self.refuse(
                f"incomplete: {where} is missing"
                if kind is None
                else f"{where} is a soft or external link; only hard links are followed"
            )
        return h5py.h5o.open(group, link)


@contextlib.contextmanager
def open_guarded(path: str | Path, within: tuple[str, ...] = ()) -> Iterator[Guarded]:
    """Open a sealed file, or the group `within` it, for reading, without locks; closed at the end of the block.

    Raises:
        RefusedFile: Not ours, damaged, incomplete, or of a structure that is never interpreted. Whatever the HDF5
            library or the parsing in the block stumbles over becomes this error.
    """
    path = Path(path)
    stop: BaseException
    with SealedFile(path) as sealed:
        try:
            with h5py.File(sealed, "r") as file:
                yield Guarded(path, file, sealed).enter(within)
            return
        except RefusedFile as refusal:
            stop = RefusedFile(path, sealed.damage or refusal.reason)
        except Exception as error:  # the HDF5 library and what parses its contents raise many kinds
            stop = RefusedFile(path, sealed.damage or f"unreadable: {type(error).__name__}: {error}")
        except BaseException as interruption:
            stop = interruption.with_traceback(None)
    # raised here and not in the handlers: a traceback through h5py holds HDF5's driver, and whoever keeps the exception
    # until the interpreter ends (a notebook does) would free it after HDF5 has shut down
    raise stop

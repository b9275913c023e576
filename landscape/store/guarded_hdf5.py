"""HDF5 files read as if their author wished us ill: hard links, plain arrays, sizes checked before any allocation.

The seal (`digest.py`) stops damage; a file that somebody made and sealed on purpose gets as far as here. No soft or
external link is followed, no external or virtual storage opened, no filter run, no variable-length type interpreted,
and no array is larger than the file it is in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from landscape.store.refused_file import RefusedFile
from landscape.store.sealed_reader import SealedFile

_KINDS = "iufS"  # integers, floats, strings of fixed length
MOST_ATTRIBUTES = 1000  # HDF5 searches attributes one by one

Value = str | int | float | bool | np.ndarray
"""An attribute: one text, number or truth value, or a vector of numbers."""


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
        self._counted: set[tuple[str, int, int]] = set()

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
                size = math.prod(shape) * dtype.itemsize
                self._count("object", address, size)
                position = self._storage(dataset, request.path, size)
                array = known[address] = np.empty(shape, dtype)
                if position is not None:
                    pieces.append((position, array.reshape(-1).view(np.uint8).data))
                elif array.size:
                    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
            arrays.append(known[address])
        self._sealed.fill(pieces)
        return arrays

    def numbers(self, wanted: Iterable[tuple[int | None, np.dtype, int]]) -> list[np.ndarray]:
        """For each (position, dtype, count) the numbers that begin at this byte of the file; None where count is 0.

        One pass over the file; the same numbers asked for twice are one array.
        """
        known: dict[tuple[int | None, np.dtype, int], np.ndarray] = {}
        pieces, arrays = [], []
        for position, dtype, count in wanted:
            key, size = (position, dtype, count), count * dtype.itemsize
            if key not in known:
                if count < 0 or (position is None) != (count == 0) or not 0 <= (position or 0) <= self._limit - size:
                    raise self.refuse(f"{count} numbers at byte {position} do not lie inside the file")
                self._count("bytes", position or 0, size)
                known[key] = np.empty(count, dtype)
                if position is not None:
                    pieces.append((position, known[key].view(np.uint8).data))
            arrays.append(known[key])
        self._sealed.fill(pieces)
        return arrays

    def _count(self, kind: str, position: int, size: int) -> None:
        """Refuse a file that would have more read from it than it has; what is read twice counts once."""
        if (kind, position, size) not in self._counted:
            self._counted.add((kind, position, size))
            self._handed_out += size
            if self._handed_out > self._limit:
                raise self.refuse(f"what it says it holds, {self._handed_out} bytes and more, is larger than it is")

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

    def attributes(self, *path: str, without: Container[str] = ()) -> dict[str, Value]:
        """The attributes of the group or dataset of this path, but not those named in `without`."""
        item = self._open(path)
        count = h5py.h5a.get_num_attrs(item)
        if count > MOST_ATTRIBUTES:
            raise self.refuse(f"/{'/'.join(path)}: expected at most {MOST_ATTRIBUTES} attributes, got {count}")
        names: list[bytes] = []
        h5py.h5a.iterate(item, names.append)
        return {name: self._attribute(item, name) for name in map(bytes.decode, names) if name not in without}

    def attribute(self, name: str) -> Value | None:
        """One attribute of the group; None if there is none of this name."""
        exists = h5py.h5a.exists(self.root, name.encode())
        return self._attribute(self.root, name) if exists else None

    def _attribute(self, item: h5py.h5g.GroupID | h5py.h5d.DatasetID, name: str) -> Value:
        attribute = h5py.h5a.open(item, name.encode())
        dtype, shape = np.dtype(attribute.dtype), attribute.shape
        plain = dtype.kind in _KINDS + "b" and not dtype.hasobject
        if shape is None or len(shape) > (plain and dtype.kind != "S") or not plain:
            raise self.refuse(f"attribute {name}: expected text, a number or a few, got {dtype} of shape {shape}")
        if math.prod(shape) * dtype.itemsize > self._limit:
            raise self.refuse(f"attribute {name}: larger than the file")
        value = np.empty(shape, dtype)
        attribute.read(value)
        if shape:
            return value
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
        there = b"/" not in link and link != b"." and group.links.exists(link)
        kind = group.links.get_info(link).type if there else None
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

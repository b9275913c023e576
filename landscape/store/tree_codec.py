"""State trees (nested dicts, lists, tuples of tensors, arrays and plain values) as HDF5 groups: exact, no pickle.

Each tensor and array is a dataset under the path of its keys, readable by anybody. What the datasets cannot say (which
keys are integers, what is a tuple, the plain values) is one JSON text in `/layout/<group>`:

    null, true, "text", 12          themselves                {"float": "0x1.8p+1"}          bit for bit
    [...]                           a list                    {"tuple": [...]}
    {"dict": [[key, node], ...]}    keys are str or int       {"bytes": "<base64>"}   {"int": "0x..."} beyond 64 bits
    {"tensor": "bfloat16", "shape": [3, 4], "at": ["state", "0", "exp_avg"]}       {"array": "<i8", "shape": …, "at": …}

A tensor that occurs twice is stored once: both places are links to one dataset and read as one tensor.
"""

from __future__ import annotations

import base64
import json
import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, TypeAlias

import h5py
import numpy as np
import torch
from torch import Tensor

from landscape.shortened import shortened
from landscape.store import tensor_codec
from landscape.store.guarded_hdf5 import Guarded, Request

Tree: TypeAlias = Any
"""dict (str or int keys) | list | tuple of Tree, or Tensor | np.ndarray | int | float | bool | str | bytes | None."""

_ARRAY_KINDS = "biuf"
_LONGEST_NAME = 1000


def write_tree(file: h5py.Group, group: str, tree: Tree) -> None:
    """Store `tree` under `/<group>` and `/layout/<group>`.

    Raises:
        ValueError: The tree holds something else than `Tree` says; names the place and the type.
    """
    writer = _Writer(file.create_group(group), group)
    node = writer.node(tree, ())
    write_text(file.require_group("layout"), group, json.dumps(node, separators=(",", ":")))


def read_tree(file: Guarded, group: str) -> Tree:
    """The tree that `write_tree` stored, equal to the bit; tensors on the CPU."""
    reader = _Reader(file, group)
    node = json.loads(file.text("layout", group))
    reader.gather(node)
    return reader.value(node)


def tensor_shapes(file: Guarded, group: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a group that holds tensors by name, without reading them."""
    return {name: tuple(node["shape"]) for name, node in json.loads(file.text("layout", group))["dict"]}


def write_text(group: h5py.Group, name: str, text: str) -> None:
    """A text of any length as a dataset: attributes end at 64 kB, variable-length strings need a heap."""
    data = text.encode()
    if b"\0" in data:
        raise ValueError(f"{group.name}/{name}: expected text without the character NUL")
    group.create_dataset(name, data=np.array(data, dtype=h5py.string_dtype("utf-8", max(1, len(data)))))


def link_name(key: str | int) -> str:
    """`key` as the name of an HDF5 link: `/` and what else HDF5 gives a meaning are percent-encoded."""
    text = str(key)
    if text in ("", ".", ".."):
        return "%" + "".join(f"{ord(c):02X}" for c in text)
    return re.sub(r"[%/\0\ud800-\udfff]", lambda c: f"%{ord(c[0]):02X}", text)[:_LONGEST_NAME]


class _Writer:
    """Walks a tree: arrays into datasets, all else into the node that is returned."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        self.group, self.name = group, name
        self._groups: dict[tuple[str, ...], h5py.Group] = {(): group}
        self._seen: dict[Hashable, list[str]] = {}
        self._kept: list[Tensor] = []  # so that no address is used twice while we compare addresses

    def node(self, value: Tree, path: tuple[str, ...]) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -(2**63) <= value < 2**63 else {"int": hex(value)}
        if kind is float:
            return {"float": value.hex()}
        if kind is bytes:
            return {"bytes": base64.b64encode(value).decode()}
        if kind is list:
            return [self.node(item, (*path, str(i))) for i, item in enumerate(value)]
        if kind is tuple or kind is torch.Size:
            return {"tuple": [self.node(item, (*path, str(i))) for i, item in enumerate(value)]}
        if kind is dict or kind is OrderedDict:
            names = self._link_names(value, path)
            return {
                "dict": [
                    [key, self.node(v, (*path, name))] for (key, v), name in zip(value.items(), names, strict=True)
                ]
            }
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray) and value.dtype.kind in _ARRAY_KINDS and value.dtype != np.longdouble:
            return self._array(value, path)
        raise ValueError(
            f"{self._where(path)}: expected tensors, numeric arrays, numbers, text, bytes, None, list, tuple or dict, "
            f"got {kind.__module__}.{kind.__qualname__}; convert it before storing"
        )

    def _where(self, path: tuple[str, ...]) -> str:
        return "/".join((self.name, *path))

    def _link_names(self, keys: Iterable[Any], path: tuple[str, ...]) -> list[str]:
        """A link name for each key, all different: 1 and "1" may be keys of one dict."""
        names: dict[str, None] = {}
        for key in keys:
            if type(key) is not str and type(key) is not int:
                raise ValueError(f"{self._where(path)}: expected keys of type str or int, got {key!r}")
            name = link_name(key)
            while name in names:
                name += "%"
            names[name] = None
        return list(names)

    def _tensor(self, tensor: Tensor, path: tuple[str, ...]) -> dict[str, Any]:
        try:
            array = tensor_codec.encode(tensor)
        except ValueError as error:
            raise ValueError(f"{self._where(path)}: {error}") from error
        name, shape = tensor_codec.name_of(tensor.dtype), list(tensor.shape)
        identity = tensor_codec.identity(tensor)
        if tensor.numel() and identity in self._seen:
            at = list(path)
            self._parent(path)[path[-1]] = self.group["/".join(self._seen[identity])]
        else:
            at = self._dataset(array, path, {"torch_dtype": name} if array.dtype.name != name else {})
            self._seen[identity] = at
            self._kept.append(tensor)
        return {"tensor": name, "shape": shape, "at": at}

    def _array(self, array: np.ndarray, path: tuple[str, ...]) -> dict[str, Any]:
        stored = array.view(np.uint8) if array.dtype == bool else array
        at = self._dataset(stored, path, {"numpy_dtype": "bool"} if array.dtype == bool else {})
        return {"array": array.dtype.str, "shape": list(array.shape), "at": at}

    def _dataset(self, array: np.ndarray, path: tuple[str, ...], attributes: dict[str, str]) -> list[str]:
        at = list(path) or ["value"]
        dataset = self._parent(path).create_dataset(at[-1], data=array)
        for name, value in attributes.items():
            dataset.attrs[name] = np.bytes_(value)
        return at

    def _parent(self, path: tuple[str, ...]) -> h5py.Group:
        if path[:-1] not in self._groups:
            self._groups[path[:-1]] = self._parent(path[:-1]).create_group(path[-2])
        return self._groups[path[:-1]]


class _Reader:
    """Walks the nodes twice: to read all arrays in one pass over the file, and to put the tree together."""

    def __init__(self, file: Guarded, group: str) -> None:
        self.file, self.group = file, group
        self._arrays: dict[tuple[str, ...], Tensor | np.ndarray] = {}

    def gather(self, node: Any) -> None:
        """Read what the nodes below `node` refer to, and see that the group holds nothing else."""
        leaves = {tuple(leaf["at"]): (kind, leaf[kind], tuple(leaf["shape"])) for kind, leaf in self._leaves(node)}
        self._check_complete(leaves)
        requests = [Request((self.group, *at), *self._stored(*leaf)) for at, leaf in leaves.items()]
        seen: dict[tuple[int, str, str], Tensor | np.ndarray] = {}
        for (at, (kind, content, _)), array in zip(leaves.items(), self.file.arrays(requests), strict=True):
            self._arrays[at] = seen.setdefault((id(array), kind, content), self._decoded(kind, content, array))

    def _check_complete(self, leaves: Iterable[tuple[str, ...]]) -> None:
        expected: dict[tuple[str, ...], set[str]] = {(): set()}
        for at in leaves:
            for depth in range(len(at)):
                expected.setdefault(at[:depth], set()).add(at[depth])
        for path, names in expected.items():
            found = set(self.file.names(self.group, *path))
            if found != names:
                where = "/".join((self.group, *path))
                raise self.file.refuse(f"/{where}: {shortened(sorted(found ^ names))} not both there and in its layout")

    def _decoded(self, kind: str, content: str, array: np.ndarray) -> Tensor | np.ndarray:
        if kind == "tensor":
            return tensor_codec.decode(array, content)
        return array.view(bool) if np.dtype(content).kind == "b" else array

    def _leaves(self, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, list):
            for item in node:
                yield from self._leaves(item)
        elif isinstance(node, dict):
            for kind in ("tensor", "array"):
                if kind in node:
                    yield kind, node
            for item in node.get("tuple", ()):
                yield from self._leaves(item)
            for _, item in node.get("dict", ()):
                yield from self._leaves(item)

    def _stored(self, kind: str, content: str, shape: tuple[int, ...]) -> tuple[np.dtype, tuple[int, ...]]:
        if kind == "tensor":
            if content not in tensor_codec.STORED_AS:
                raise self.file.refuse(f"/layout/{self.group}: torch {torch.__version__} has no dtype {content!r}")
            return tensor_codec.STORED_AS[content], tensor_codec.stored_shape(content, shape)
        dtype = np.dtype(content)
        if dtype.kind not in _ARRAY_KINDS:
            raise self.file.refuse(f"/layout/{self.group}: expected a numeric array, got {dtype}")
        return np.dtype(np.uint8) if dtype.kind == "b" else dtype, shape

    def value(self, node: Any) -> Tree:
        """The tree below `node`."""
        if node is None or isinstance(node, bool | str | int):
            return node
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if not isinstance(node, dict) or not node:
            raise self.file.refuse(f"/layout/{self.group}: expected a node of a known kind, got {node!r:.80}")
        kind, content = next(iter(node.items()))
        if kind in ("tensor", "array"):
            return self._arrays[tuple(node["at"])]
        if kind == "dict":
            return {key: self.value(child) for key, child in content}
        if kind == "tuple":
            return tuple(self.value(item) for item in content)
        if kind == "float":
            return float.fromhex(content)
        if kind == "int":
            return int(content, 16)
        if kind == "bytes":
            return base64.b64decode(content, validate=True)
        raise self.file.refuse(f"/layout/{self.group}: expected a node of a known kind, got {kind!r:.80}")

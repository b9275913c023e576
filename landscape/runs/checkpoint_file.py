"""One checkpoint, one HDF5 file: whole in itself, written once, refused unless every byte read is as it was written.

    /parameters/<name>   trainable weights        /momentum/<name>   the base's first moment, same names
    /buffers/<name>      buffers of the model     /optimizer /rng /data /scheduler …   state trees, see tree_codec.py
    /metrics/<name>      series since the previous checkpoint, each on the dimension scale of its steps
    /evaluation          statistics of BatchNorm to evaluate with, since version 2; without it those are in /buffers
    /layout/<group>      JSON: what is in the group, in which order, of which type and shape
    attributes           format, format_version, step, and whatever the writer adds (experiment, provenance, …)

Datasets are contiguous and uncompressed. Anybody reads the file without this toolkit:

    h5py.File(path)["parameters/layer.weight"][...]                     bfloat16 is uint16, see its attribute torch_dtype
    xarray.open_dataset(path, engine="h5netcdf", group="metrics")       weights have no named dimensions: for them add
                                                                        group="parameters", phony_dims="sort"

`digest.py` describes the 512 bytes before the HDF5 file and the table behind it. A release reads its own format version
and all before it; `landscape export` to one .h5 and `landscape import` write a run anew in the version of the day.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from landscape.runs.metric_series import Series, read_metrics, verify_metrics, write_metrics
from landscape.shortened import shortened
from landscape.store.guarded_hdf5 import MOST_ATTRIBUTES, Guarded, open_guarded
from landscape.store.sealed_file import new_sealed_file
from landscape.store.tree_codec import Tree, read_tree, tensor_shapes, write_text, write_tree

FORMAT = "landscape-toolkit checkpoint"
VERSION = 2  # 1: /buffers held BatchNorm's statistics for evaluation
LAST_STEP = 10**15  # of one a microsecond, thirty years; a float still counts them
Attribute = str | int | float | bool

_OWN_GROUPS = ("parameters", "momentum", "buffers", "metrics", "layout", "attributes")
_OWN_ATTRIBUTES = ("format", "format_version", "step")
_LONGEST_ATTRIBUTE = 32_000  # HDF5 allows 64 kB for an attribute and its header; what is longer becomes a dataset


def write_checkpoint(
    path: str | Path,
    *,
    step: int,
    parameters: Mapping[str, Tensor],
    momentum: Mapping[str, Tensor] | None,
    buffers: Mapping[str, Tensor],
    state: Mapping[str, Tree],
    metrics: Mapping[str, Series],
    attributes: Mapping[str, Attribute],
) -> None:
    """Write a checkpoint: when this returns it is on the disk, before that there is nothing under its name.

    Args:
        path: Where; an existing file is replaced only by a complete one.
        step: Optimizer steps taken so far.
        parameters: Trainable weights by name. A tensor that comes under two names is stored once and stays tied.
        momentum: First moment of the base optimizer under the same names and in the same shapes, or None.
        buffers: Buffers of the model by name.
        state: State trees by group name (`optimizer`, `rng`, `data`, …); see `tree_codec.Tree`.
        metrics: Steps and values of each series since the previous checkpoint.
        attributes: One string, integer, float or truth value each; strings of any length without NUL.

    Raises:
        ValueError: Something cannot be stored; names the place.
        OSError: The disk is full or the folder not writable; nothing is left behind.
    """
    with new_sealed_file(path) as file:
        write_contents(
            file,
            step=step,
            parameters=parameters,
            momentum=momentum,
            buffers=buffers,
            state=state,
            metrics=metrics,
            attributes=attributes,
        )


def write_contents(
    file: h5py.Group,
    *,
    step: int,
    parameters: Mapping[str, Tensor],
    momentum: Mapping[str, Tensor] | None,
    buffers: Mapping[str, Tensor],
    state: Mapping[str, Tree],
    metrics: Mapping[str, Series],
    attributes: Mapping[str, Attribute],
) -> None:
    """Put the contents of a checkpoint into an empty group: a file, or a group of an archive. See `write_checkpoint`."""
    if not 0 <= step <= LAST_STEP:
        raise ValueError(f"step: expected 0 or more, got {step}" + f"; at most {LAST_STEP}" * (step > 0))
    _check_names(parameters, momentum, state, attributes)
    own: dict[str, Attribute] = {"format": FORMAT, "format_version": VERSION, "step": step}
    write_attributes(file, own | dict(attributes))
    write_metrics(file, metrics)  # first, so that they lie together and are read without the weights
    write_tree(file, "parameters", dict(parameters))
    if momentum is not None:
        write_tree(file, "momentum", dict(momentum))
    write_tree(file, "buffers", dict(buffers))
    for group, tree in state.items():
        write_tree(file, group, tree)


def read_checkpoint(path: str | Path, within: tuple[str, ...] = ()) -> CheckpointContents:
    """Open a checkpoint: reads its seal and attributes; the rest is read, and checked, when asked for.

    `within` is the group that holds the checkpoint, where the file holds several.

    Raises:
        RefusedFile: Not a checkpoint of this toolkit, damaged, incomplete, or of a later version.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    with open_guarded(path, within) as file:
        _check_format(file)
        attributes = _read_attributes(file)
        step = attributes.get("step")
        if type(step) is not int or not 0 <= step <= LAST_STEP:
            raise file.refuse(f"expected its step as a whole number from 0 to {LAST_STEP}, got {step!r}")
        groups = tuple(file.names("layout"))
        there = set(file.names()) - {"layout", "attributes"}
        missing = sorted(({"parameters", "buffers", "metrics"} - there) | (there ^ set(groups)))
        if missing:
            raise file.refuse(f"incomplete: /{missing[0]} or its layout is missing")
    return CheckpointContents(path, attributes, groups, within)


def read_segment(path: str | Path) -> dict[str, Series]:
    """The metrics of a checkpoint and nothing else, as fast as a run of thousands wants it."""
    with open_guarded(path) as file:
        _check_format(file)
        return read_metrics(file)


class CheckpointContents:
    """What a checkpoint file holds. Each access opens the file, reads and checks what was asked for, and closes it.

    Tensors and arrays are fresh at each access, on the CPU.
    """

    def __init__(
        self, path: Path, attributes: dict[str, Attribute], groups: tuple[str, ...], within: tuple[str, ...] = ()
    ) -> None:
        self.path = path
        self.attributes = attributes
        self._groups = groups
        self._within = within

    def _open(self) -> AbstractContextManager[Guarded]:
        return open_guarded(self.path, self._within)

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.attributes["step"])

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the state groups."""
        return tuple(group for group in self._groups if group not in _OWN_GROUPS)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by name, from the layout alone."""
        with self._open() as file:
            return tensor_shapes(file, "parameters")

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Trainable weights by name."""
        with self._open() as file:
            return _tensors(file, "parameters")

    @property
    def momentum(self) -> dict[str, Tensor] | None:
        """First moment of the base by parameter name; None where there was none."""
        if "momentum" not in self._groups:
            return None
        with self._open() as file:
            return _tensors(file, "momentum")

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Buffers by name."""
        with self._open() as file:
            return _tensors(file, "buffers")

    @property
    def metrics(self) -> dict[str, Series]:
        """Steps and values of each series since the previous checkpoint."""
        with self._open() as file:
            return read_metrics(file)

    def state(self, group: str) -> Tree:
        """The state tree of this name; KeyError with the names there are."""
        if group not in self.groups:
            raise KeyError(f"no state {group!r} in {self.path}; there is {shortened(self.groups) or 'none'}")
        with self._open() as file:
            return read_tree(file, group)

    def verify(self) -> None:
        """Read everything; RefusedFile if any of it is not as it was written."""
        with self._open() as file:
            file.verify()
            parameters = _tensors(file, "parameters")
            if "momentum" in self._groups:
                momentum = _tensors(file, "momentum")
                if {n: m.shape for n, m in momentum.items()} != {n: p.shape for n, p in parameters.items()}:
                    raise file.refuse("/momentum is not in the coordinates of /parameters")
            _tensors(file, "buffers")
            verify_metrics(file)
            for group in self.groups:
                read_tree(file, group)


def _check_names(
    parameters: Mapping[str, Tensor],
    momentum: Mapping[str, Tensor] | None,
    state: Mapping[str, Tree],
    attributes: Mapping[str, Attribute],
) -> None:
    if momentum is not None:
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        found = {name: tuple(m.shape) for name, m in momentum.items()}
        if found != shapes:
            wrong = [n for n in {**shapes, **found} if shapes.get(n) != found.get(n)]
            raise ValueError(
                f"momentum: expected the names and shapes of the parameters, got others at {shortened(wrong)}"
            )
    for group in state:
        if group in _OWN_GROUPS or not group.isidentifier():
            raise ValueError(f"state group {group!r}: expected an identifier other than {', '.join(_OWN_GROUPS)}")
    if len(attributes) > MOST_ATTRIBUTES // 2:
        raise ValueError(f"expected at most {MOST_ATTRIBUTES // 2} attributes, got {len(attributes)}")
    for name in attributes:
        if name in _OWN_ATTRIBUTES or not name:
            raise ValueError(f"attribute {name!r}: {', '.join(_OWN_ATTRIBUTES)} are written by the format itself")


def write_attributes(file: h5py.Group, attributes: Mapping[str, Attribute]) -> None:
    """One string, number or truth value each; what HDF5 finds too long becomes a dataset in `/attributes`."""
    for name, value in attributes.items():
        if isinstance(value, str):
            data = value.encode()
            if len(data) > _LONGEST_ATTRIBUTE:
                write_text(file.require_group("attributes"), name, value)
            elif "\0" in value:
                raise ValueError(f"attribute {name}: expected text without the character NUL")
            else:
                file.attrs.create(name, np.bytes_(data), dtype=h5py.string_dtype("utf-8", max(1, len(data))))
        elif type(value) in (bool, int, float):
            file.attrs[name] = value
        else:
            raise ValueError(f"attribute {name}: expected str, int, float or bool, got {type(value).__name__}")


def _check_format(file: Guarded) -> None:
    found, version = file.attribute("format"), file.attribute("format_version")
    if found != FORMAT:
        raise file.refuse(f"expected a {FORMAT}, got format {found!r}")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise file.refuse(f"expected format version 1 to {VERSION}, got {version!r}; a newer release reads it")


def _read_attributes(file: Guarded) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {}
    for name, value in file.attributes().items():
        if isinstance(value, np.ndarray):
            raise file.refuse(f"attribute {name}: expected one text or number, got {value.size}")
        attributes[name] = value
    if file.has("attributes"):
        attributes |= {name: file.text("attributes", name) for name in file.names("attributes")}
    return attributes


def _tensors(file: Guarded, group: str) -> dict[str, Tensor]:
    tree = read_tree(file, group)
    if not isinstance(tree, dict) or not all(isinstance(t, Tensor) for t in tree.values()):
        raise file.refuse(f"/layout/{group}: expected tensors by name")
    return tree

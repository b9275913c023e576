"""An xarray Dataset as one sealed HDF5 file that is also a netCDF-4 file: for answers, as checkpoints are for weights.

    /<variable>          a dataset each, on the dimension scales of its coordinates
    /layout/dataset      JSON: which are coordinates, along which dimensions each lies
    attributes           format, format_version, those of the Dataset; each variable has its own

    write_dataset(path, dataset, ANALYSIS)
    read_dataset(path, ANALYSIS)       every byte checked, read as if its author wished us ill
    xarray.load_dataset(path, engine="h5netcdf")            and h5py.File(path): anybody else

Numbers are contiguous, text is UTF-8 of fixed length, truth values are bytes; nothing else is stored.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from landscape.store.guarded_hdf5 import Guarded, Request, open_guarded
from landscape.store.sealed_file import new_sealed_file
from landscape.store.tree_codec import link_name, write_text

ANALYSIS = "landscape-toolkit analysis"
VERSION = 1
_OWN_GROUPS = ("layout", "attributes")
_OWN_ATTRIBUTES = ("format", "format_version", "coordinates")
_LONGEST_ATTRIBUTE = 32_000  # as in a checkpoint: what is longer becomes a dataset in /attributes
_BARE = "This is a netCDF dimension but not a netCDF variable."  # netCDF's own words for a dimension without coordinate
_NETCDF = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Encoding", "dtype")


def write_dataset(path: str | Path, dataset: xr.Dataset, kind: str) -> None:
    """Write `dataset` to `path`, whole, sealed and on the disk, or not at all; `kind` names the format.

    Raises:
        ValueError: A variable or an attribute is neither numbers nor text; names it.
        OSError: The disk is full or the folder not writable; nothing is left behind.
    """
    names = [str(name) for name in dataset.variables]
    links = {name: link_name(name) for name in names}
    bare = {str(dim): size for dim, size in dataset.sizes.items() if dim not in dataset.variables}
    if len(set(links.values()) | set(map(link_name, bare))) < len(links) + len(bare) or set(_OWN_GROUPS) & {
        *links,
        *bare,
    }:
        raise ValueError(
            f"{path}: expected variables of different names other than {', '.join(_OWN_GROUPS)}, got {names}"
        )
    with new_sealed_file(path) as file:
        own: dict[str, Any] = {"format": kind, "format_version": VERSION}
        further = [str(name) for name in dataset.coords if dataset.variables[name].dims != (name,)]
        own |= {"coordinates": " ".join(further)} if further else {}  # where xarray looks for them
        _write_attributes(file, "", own | _plain(dataset.attrs, _OWN_ATTRIBUTES))
        scales = {dim: file.create_dataset(link_name(dim), shape=(size,), dtype=">f4") for dim, size in bare.items()}
        for scale in scales.values():
            scale.make_scale(f"{_BARE}{scale.size:10d}")
        layout = {}
        for name, variable in dataset.variables.items():
            stored, text = _stored(str(name), variable.values)
            item = file.create_dataset(links[str(name)], data=stored)
            said = {"_Encoding": "utf-8"} if text else {"dtype": "bool"} if variable.dtype == bool else {}
            _write_attributes(item, f"{name}: ", said | _plain(variable.attrs, _NETCDF))
            if variable.dims == (name,):
                item.make_scale(links[str(name)])
                scales[str(name)] = item
            layout[str(name)] = {
                "at": links[str(name)],
                "dims": list(map(str, variable.dims)),
                "coordinate": name in dataset.coords,
            }
        for name, variable in dataset.variables.items():
            for axis, dim in enumerate(variable.dims):
                if dim != name:
                    file[links[str(name)]].dims[axis].attach_scale(scales[str(dim)])
        write_text(file.create_group("layout"), "dataset", json.dumps({"variables": layout, "bare": bare}))


def read_dataset(path: str | Path, kind: str) -> xr.Dataset:
    """The Dataset in `path`; every byte of the file is checked.

    Raises:
        RefusedFile: Not a file of this kind, damaged, incomplete, or of a later version.
        FileNotFoundError: There is no such file.
    """
    with open_guarded(path) as file:
        file.verify()
        found, version = file.attribute("format"), file.attribute("format_version")
        if found != kind:
            raise file.refuse(f"expected a {kind}, got format {found!r:.80}")
        if type(version) is not int or not 1 <= version <= VERSION:
            raise file.refuse(f"expected format version 1 to {VERSION}, got {version!r:.80}; a newer release reads it")
        return _read(file)


def _read(file: Guarded) -> xr.Dataset:
    content = json.loads(file.text("layout", "dataset"))
    layout, bare = content["variables"], content["bare"]
    expected = {entry["at"] for entry in layout.values()} | {link_name(dim) for dim in bare} | {"layout"}
    if set(file.names()) - {"attributes"} != expected or len(expected) != len(layout) + len(bare) + 1:
        raise file.refuse("its variables are not those that its layout names")
    arrays = file.arrays(Request((entry["at"],)) for entry in layout.values())
    variables: dict[str, xr.Variable] = {}
    for (name, entry), array in zip(layout.items(), arrays, strict=True):
        attributes = file.attributes(entry["at"], without=_NETCDF[:-1])
        truth = attributes.pop("dtype", None) == "bool"
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8") if array.size else array.astype("U1")
        elif truth and array.dtype.itemsize == 1:
            array = array.view(np.bool_)
        variables[name] = xr.Variable(tuple(entry["dims"]), array, attributes)
    attributes = file.attributes(without=_OWN_ATTRIBUTES)
    if file.has("attributes"):
        attributes |= {name: file.text("attributes", name) for name in file.names("attributes")}
    coordinates = {name for name, entry in layout.items() if entry["coordinate"]}
    return xr.Dataset(
        {name: variable for name, variable in variables.items() if name not in coordinates},
        {name: variables[name] for name in layout if name in coordinates},
        attributes,
    )


def _stored(name: str, values: np.ndarray) -> tuple[np.ndarray, bool]:
    """The array to store, and whether it is text."""
    if values.dtype.kind in "iuf" and values.dtype.itemsize <= 8:
        return values, False
    if values.dtype.kind == "b":
        return values.view(np.int8), False
    texts = [value.encode() if isinstance(value, str) else None for value in values.ravel()]
    data = [text for text in texts if text is not None and b"\0" not in text]
    if values.dtype.kind not in "OU" or len(data) < len(texts):
        raise ValueError(f"variable {name}: expected numbers, truth values or text without NUL, got {values.dtype}")
    kind = h5py.string_dtype("utf-8", max(1, *map(len, data)) if data else 1)
    return np.array(data, kind).reshape(values.shape), True


def _plain(attributes: Mapping[Any, Any], own: tuple[str, ...]) -> dict[str, Any]:
    """Attributes as Python and NumPy have them; those of the format itself are not the caller's to give."""
    taken: list[Hashable] = [name for name in attributes if name in own]
    if taken:
        raise ValueError(f"attribute {taken[0]!r}: {', '.join(own)} are written by the format itself")
    return {str(name): value for name, value in attributes.items()}


def _write_attributes(item: h5py.Group | h5py.Dataset, where: str, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        plain = value.item() if isinstance(value, np.generic) else value
        vector = np.asarray(plain) if isinstance(plain, list | tuple | np.ndarray) else None
        if isinstance(plain, str) and "\0" not in plain:
            data = plain.encode()
            if len(data) <= _LONGEST_ATTRIBUTE:
                item.attrs.create(name, np.bytes_(data), dtype=h5py.string_dtype("utf-8", max(1, len(data))))
                continue
            if not where:
                write_text(item.require_group("attributes"), name, plain)
                continue
        elif isinstance(plain, bool | int | float):
            item.attrs[name] = int(plain) if isinstance(plain, bool) else plain
            continue
        elif (
            vector is not None
            and vector.ndim == 1
            and vector.dtype.kind in "iuf"
            and vector.nbytes <= _LONGEST_ATTRIBUTE
        ):
            item.attrs[name] = vector
            continue
        raise ValueError(f"{where}attribute {name}: expected text, a number or a vector of numbers, got {value!r:.80}")

"""Datasets in sealed files: equal to the bit, opened by netCDF readers, refused with any byte changed."""

import h5py
import numpy as np
import pytest
import xarray as xr

from landscape.store.dataset_file import read_dataset, write_dataset
from landscape.store.digest import seal
from landscape.store.refused_file import RefusedFile

KIND = "landscape-toolkit test"


def everything() -> xr.Dataset:
    """Something of every kind that a Dataset may hold here."""
    dataset = xr.Dataset(
        {
            "scalar": 1.5,
            "curve": ("radius", np.array([0.1, np.nan, -np.inf]), {"units": "nats", "long_name": "loss"}),
            "grid": (("direction", "radius"), np.arange(6, dtype=np.float32).reshape(2, 3)),
            "sample": ("draw", np.arange(4, dtype=np.uint8)),
            "converged": ("direction", np.array([True, False])),
            "unit": ("direction", np.array(["‖Δθ‖₂", ""])),
            "empty": ("nothing", np.empty(0)),
            "word": "text",
        },
        {
            "radius": [-1.0, 0.0, 1.0],
            "direction": ["gradient", "−momentum"],
            "loss": 0.25,
            "side": ("direction", [1, 2]),
        },
        {
            "analysis": "test",
            "step": 12,
            "rho": 0.05,
            "long": "é" * 40_000,
            "nothing": "",
            "list": np.array([1.0, 2.0]),
        },
    )
    dataset["direction"].attrs["long_name"] = "direction"
    return dataset


@pytest.fixture
def path(tmp_path):
    write_dataset(tmp_path / "d.h5", everything(), KIND)
    return tmp_path / "d.h5"


def test_what_is_written_is_read(path):
    found = read_dataset(path, KIND)
    xr.testing.assert_identical(found, everything())
    for name, variable in everything().variables.items():
        assert found[name].dtype == variable.dtype


def test_netcdf_readers_open_it(path):
    with xr.load_dataset(path, engine="h5netcdf") as theirs:
        xr.testing.assert_equal(theirs, everything())
        assert set(theirs.coords) == set(everything().coords)
        assert theirs["curve"].attrs == {"units": "nats", "long_name": "loss"}
        assert theirs.attrs["step"] == 12
        assert theirs["converged"].dtype == bool
    with h5py.File(path) as file:
        assert file["grid"].dims[1][0][...].tolist() == [-1, 0, 1]


def test_every_byte_counts(path):
    """One flipped bit anywhere, whatever is asked of the file, is a refusal and never another number."""
    good = path.read_bytes()
    for position in range(0, len(good), 37):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        with pytest.raises(RefusedFile, match=r"damaged|not a file of this toolkit"):
            read_dataset(path, KIND)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda f: f.move("curve", "other"), "not those that its layout names"),
        (lambda f: f.pop("radius"), "not those that its layout names"),
        (lambda f: f.attrs.__setitem__("format_version", 2), "version 1 to 1, got 2"),
        (lambda f: f.attrs.__setitem__("format", np.bytes_("else")), "expected a landscape-toolkit test"),
        (lambda f: f.attrs.__setitem__("x", np.zeros((2, 2))), "attribute x"),
        (lambda f: f.attrs.__setitem__("x", "variable length"), "attribute x"),
        (lambda f: [f.attrs.__setitem__(f"a{i}", i) for i in range(1100)], "at most 1000 attributes"),
        (lambda f: (f.pop("curve"), f.create_dataset("curve", shape=(2**40,), dtype="f8")), "larger than it is"),
        (lambda f: (f.pop("curve"), f.__setitem__("curve", h5py.SoftLink("/radius"))), "soft or external link"),
        (lambda f: (f.pop("curve"), f.create_dataset("curve", data=np.zeros(4))), "conflicting sizes"),
        (lambda f: (f.pop("layout"), f.create_group("layout")), "layout/dataset is missing"),
    ],
)
def test_what_was_made_and_sealed_on_purpose_is_read_with_care(path, harm, reason):
    with h5py.File(path, "r+") as file:
        harm(file)
    seal(path)
    with pytest.raises(RefusedFile, match=reason):
        read_dataset(path, KIND)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": ("d", np.array([1 + 1j]))}, "variable x: expected numbers"),
        ({"x": ("d", np.array(["2026-01-01"], "datetime64[ns]"))}, "variable x"),
        ({"x": ("d", np.array(["a\0b"]))}, "variable x"),
        ({"layout": 1.0}, "other than layout"),
        ({"x": ((), 1.0, {"a": {}})}, "x: attribute a"),
        ({"x": ((), 1.0, {"a": "x" * 40_000})}, "x: attribute a"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_and_leaves_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / "x.h5", xr.Dataset(changes), KIND)
    assert not list(tmp_path.iterdir())


def test_the_formats_own_attributes_are_not_the_callers(tmp_path):
    with pytest.raises(ValueError, match="written by the format itself"):
        write_dataset(tmp_path / "x.h5", xr.Dataset(attrs={"format": "mine"}), KIND)

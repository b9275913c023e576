"""A checkpoint file: all or nothing on writing, exact on reading, refused by name and reason when it is not whole."""

import os
import warnings

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from landscape.runs import checkpoint_file
from landscape.runs.checkpoint_file import read_checkpoint, write_checkpoint
from landscape.store import sealed_file
from landscape.store.refused_file import RefusedFile


def contents(seed=0, size=4):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, 3, generator=generator)
    return {
        "step": 1200,
        "parameters": {"layer.weight": weight, "layer.bias": torch.randn(size, generator=generator)},
        "momentum": {"layer.weight": torch.randn(size, 3), "layer.bias": torch.zeros(size)},
        "buffers": {"norm.running_mean": torch.randn(3), "norm.num_batches_tracked": torch.tensor(7)},
        "state": {"optimizer": {"state": {0: {"exp_avg": torch.randn(size)}}, "param_groups": [{"lr": 0.1}]}},
        "metrics": {
            "loss": (np.arange(5), np.linspace(2, 1, 5)),
            "learning_rate": (np.arange(5), np.full(5, 0.1)),
            "psf": (np.array([0, 3]), np.array([0.5, 0.25])),
        },
        "attributes": {
            "experiment": "seed = 0\n",
            "seed": 3,
            "seconds": 0.5,
            "finished": True,
            "name": "é",
            "empty": "",
        },
    }


def written(path, **changes):
    write_checkpoint(path, **{**contents(), **changes})
    return path


def test_what_was_written_is_read(tmp_path):
    expected = contents()
    write_checkpoint(tmp_path / "a.h5", **expected)
    found = read_checkpoint(tmp_path / "a.h5")
    assert found.step == 1200
    for group in ("parameters", "momentum", "buffers"):
        tensors = getattr(found, group)
        assert list(tensors) == list(expected[group])
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected[group].items())
    assert found.groups == ("optimizer",)
    state = found.state("optimizer")
    assert state["param_groups"] == [{"lr": 0.1}]
    assert torch.equal(state["state"][0]["exp_avg"], expected["state"]["optimizer"]["state"][0]["exp_avg"])
    assert set(found.metrics) == set(expected["metrics"])
    for name, (steps, values) in expected["metrics"].items():
        assert np.array_equal(found.metrics[name][0], steps)
        assert np.array_equal(found.metrics[name][1], values)
    for name, value in expected["attributes"].items():
        assert found.attributes[name] == value
        assert type(found.attributes[name]) is type(value)
    found.verify()


def test_no_momentum_is_none(tmp_path):
    assert read_checkpoint(written(tmp_path / "a.h5", momentum=None)).momentum is None


def test_an_unknown_state_names_those_there_are(tmp_path):
    with pytest.raises(KeyError, match=r"no state 'rng'.*optimizer"):
        read_checkpoint(written(tmp_path / "a.h5")).state("rng")


def test_attributes_of_any_length(tmp_path):
    attributes = {f"text{i}": "x" * 60_000 for i in range(5)} | {"experiment": "ü" * 500_000, "edge": "y" * 32_000}
    assert attributes.items() <= read_checkpoint(written(tmp_path / "a.h5", attributes=attributes)).attributes.items()


def test_a_stranger_reads_it_with_h5py(tmp_path):
    expected = contents()
    write_checkpoint(tmp_path / "a.h5", **expected)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        weight = file["parameters/layer.weight"]
        assert np.array_equal(weight[...], expected["parameters"]["layer.weight"].numpy())
        assert (weight.chunks, weight.compression, weight.dtype) == (None, None, np.dtype("<f4"))
        assert file.attrs["experiment"].decode() == "seed = 0\n"
        assert file.attrs["step"] == 1200
        assert file["metrics/loss"].dims[0][0] == file["metrics/step"]


def test_bfloat16_is_uint16_with_its_name(tmp_path):
    tensor = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    written(tmp_path / "a.h5", parameters={"w": tensor}, momentum=None)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        stored = file["parameters/w"]
        assert stored.attrs["torch_dtype"] == b"bfloat16"
        assert np.array_equal((stored[...].astype(np.uint32) << 16).view(np.float32), [1.5, -2.0])


def test_a_stranger_reads_it_with_xarray(tmp_path):
    written(tmp_path / "a.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # metrics have dimension scales, so nothing has to be made up
        with xr.open_dataset(tmp_path / "a.h5", engine="h5netcdf", group="metrics") as metrics:
            assert metrics.loss.dims == metrics.learning_rate.dims == ("step",)
            assert metrics.psf.dims == ("psf_step",)
            assert float(metrics.psf.sel(psf_step=3)) == 0.25
    with xr.open_dataset(tmp_path / "a.h5", engine="h5netcdf", group="parameters", phony_dims="sort") as parameters:
        assert parameters["layer.weight"].shape == (4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": {"layer.weight": torch.zeros(4, 3)}}, "layer.bias"),
        ({"momentum": {"layer.weight": torch.zeros(3, 4), "layer.bias": torch.zeros(4)}}, "layer.weight"),
        ({"step": -1}, "step: expected 0 or more, got -1"),
        ({"state": {"parameters": {}}}, "state group 'parameters'"),
        ({"state": {"a/b": {}}}, "state group 'a/b'"),
        ({"attributes": {"step": 3}}, "attribute 'step'"),
        ({"attributes": {"options": [1]}}, "attribute options.*list"),
        ({"attributes": {"text": "a\0b"}}, "attribute text.*NUL"),
        ({"metrics": {"loss": (np.array([0, 0]), np.zeros(2))}}, "metric loss.*rise"),
        ({"metrics": {"loss": (np.arange(3), np.zeros(2))}}, "metric loss"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_and_leaves_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        written(tmp_path / "a.h5", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = written(tmp_path / "a.h5")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed_file, "seal", full)
    with pytest.raises(OSError, match="No space left"):
        written(path, step=1300)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    written(tmp_path / "a.h5")
    at = order.index("replace")
    assert ".tmp-" in order[at - 1]
    assert order[at + 1 :] == [str(tmp_path)]


def test_a_plain_hdf5_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["parameters/w"] = np.zeros(3)
    with pytest.raises(RefusedFile, match=r"foreign\.h5: not a file of this toolkit"):
        read_checkpoint(tmp_path / "foreign.h5")


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n", b"landscape-toolkit", b"\0" * 4096])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "foreign.h5").write_bytes(data)
    with pytest.raises(RefusedFile, match=r"foreign\.h5: not a file of this toolkit"):
        read_checkpoint(tmp_path / "foreign.h5")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.h5")


def test_every_truncation_is_refused(tmp_path):
    path = written(tmp_path / "a.h5")
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(RefusedFile, match=r"a\.h5: (not a file|damaged|incomplete)"):
            read_checkpoint(path)


def test_a_later_version_is_refused_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "VERSION", 2)
    path = written(tmp_path / "a.h5")
    monkeypatch.setattr(checkpoint_file, "VERSION", 1)
    with pytest.raises(RefusedFile, match="version 1 to 1, got 2; a newer release"):
        read_checkpoint(path)


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "FORMAT", "something else")
    path = written(tmp_path / "a.h5")
    monkeypatch.undo()
    with pytest.raises(RefusedFile, match="got format 'something else'"):
        read_checkpoint(path)


def test_reading_leaves_no_handle_open(tmp_path):
    path = written(tmp_path / "a.h5")
    found = read_checkpoint(path)
    found.verify()
    for group in (found.parameters, found.momentum, found.buffers, found.metrics, found.state("optimizer")):
        assert group
    open_files = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert str(path) not in open_files

"""Files of format version 1, written in 2026 and never again, say today what they said then.

What they hold is a closed form, `contents()`: each is `write_checkpoint(path, **contents())`, the first under seal 1
(SHA-256), the second under seal 2. A change of the format writes another file beside them and leaves these alone.
"""

import hashlib
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from landscape.experiment import Experiment
from landscape.runs import checkpoint_file
from landscape.runs.archive import export_archive, import_archive
from landscape.runs.checkpoint_file import read_checkpoint, write_checkpoint
from landscape.runs.run import Run
from landscape.store import tensor_codec

GOLDEN = {
    "checkpoint-version-1.h5": "ee7fc19def33cd1da546c46a905e881e94431fafcbd407d292497df687fd9db3",
    "checkpoint-version-1-seal-2.h5": "45078393e3c6e26d028703c7ed50cf46e03de2ecf3991afb6f1f6bcd7ba8ae8a",
}
DTYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex32",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
]


def bits(dtype):
    """Six elements of `dtype` whose bytes count 0, 1, 2, …"""
    size = getattr(torch, dtype).itemsize
    raw = torch.arange(6 * size, dtype=torch.uint8)
    return (raw % 2 if dtype == "bool" else raw).view(getattr(torch, dtype)).reshape(2, 3)


def contents():
    weight = torch.arange(12, dtype=torch.float32).reshape(4, 3) / 8
    return {
        "step": 42,
        "parameters": {"body.0.weight": weight, "body.0.bias": torch.arange(4.0) - 1.5, "a/b": torch.tensor(math.pi)},
        "momentum": {"body.0.weight": -weight, "body.0.bias": torch.zeros(4), "a/b": torch.tensor(1.0)},
        "buffers": {"norm.running_var": torch.full((4,), 0.25), "norm.num_batches_tracked": torch.tensor(42)},
        "state": {
            "optimizer": {
                "state": {0: {"step": torch.tensor(42.0), "exp_avg": weight}, 1: {"shared": weight}},
                "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1], "fused": None, "nesterov": True}],
            },
            "rng": {
                "torch": torch.arange(16, dtype=torch.uint8),
                "numpy": ["MT19937", np.arange(624, dtype=np.uint32), 3, 0, -0.0],
                "python": (3, (2**127 - 1, -(2**70)), None),
                "bytes": b"\x00\xff",
                "numbers": [math.inf, -math.inf, 5e-324, 0.1],
                "big endian": np.arange(3, dtype=">f8"),
                "flags": np.array([True, False]),
            },
            "dtypes": {dtype: bits(dtype) for dtype in DTYPES},
        },
        "metrics": {
            "loss": (np.arange(36, 42), 1 / (1 + np.arange(6.0))),
            "learning_rate": (np.arange(36, 42), np.full(6, 0.1)),
            "psf": (np.array([36, 39]), np.array([0.5, math.nan])),
            "test_loss": (np.array([42]), np.array([0.125])),
        },
        "attributes": {"experiment": "lr = 0.1\n", "finished": False, "seconds": 1.5, "long": "é" * 40_000},
    }


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert tensor_codec.encode(a).tobytes() == tensor_codec.encode(b).tobytes()
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b
        assert not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b)


def check(found):
    expected = contents()
    found.verify()
    assert found.step == expected["step"]
    for name in ("parameters", "momentum", "buffers", "metrics"):
        same(expected[name], getattr(found, name))
    for group, tree in expected["state"].items():
        same(tree, found.state(group))
    assert expected["attributes"].items() <= found.attributes.items()
    shared = found.state("optimizer")["state"]
    assert shared[0]["exp_avg"] is shared[1]["shared"]


@pytest.fixture(params=GOLDEN)
def golden(request):
    return Path(__file__).parent / "golden" / request.param


def test_the_golden_file_is_the_one_of_2026(golden):
    assert hashlib.sha256(golden.read_bytes()).hexdigest() == GOLDEN[golden.name]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_version_1_is_read_as_it_was_meant(golden):
    check(read_checkpoint(golden))


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_todays_version_reads_the_same(tmp_path):
    write_checkpoint(tmp_path / "today.h5", **contents())
    check(read_checkpoint(tmp_path / "today.h5"))


def test_strangers_read_version_1(golden):
    with h5py.File(golden, "r") as file:
        assert np.array_equal(file["parameters/body.0.weight"][...], np.arange(12).reshape(4, 3) / 8)
        assert file["metrics/psf"].dims[0][0][...].tolist() == [36, 39]
        assert file.attrs["format_version"] == 1


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_export_and_import_bring_an_old_run_to_the_version_of_the_day(golden, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "old", Experiment())
    run.checkpoint_path(42).write_bytes(golden.read_bytes())
    monkeypatch.setattr(checkpoint_file, "VERSION", 2)
    export_archive(run, tmp_path / "old.h5")
    new = import_archive(tmp_path / "old.h5", tmp_path / "new")
    assert new.checkpoint(42).attributes["format_version"] == 2
    check(read_checkpoint(new.checkpoint_path(42)))

"""Fashion-MNIST from idx files: the real ones where they are installed, small ones made here, and damaged ones."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape.data import load
from landscape.data.fashion_mnist import DEBIAN, FILES
from landscape.data.idx import read_idx
from landscape.experiment import Experiment


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve training and five test images of random bytes; the training files are compressed."""
    random = np.random.default_rng(0)
    for name, stem in FILES.items():
        count = 12 if name.startswith("train") else 5
        array = random.integers(0, 256, (count, 4, 4)) if name.endswith("images") else random.integers(0, 10, count)
        content = idx(array.astype(np.uint8))
        if name.startswith("train"):
            (tmp_path / f"{stem}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / stem).write_bytes(content)
    return tmp_path


def experiment(folder: Path, **options: object) -> Experiment:
    options = {"train_examples": 12, "test_examples": 5} | options
    return Experiment(data="fashion-mnist", data_options={"path": str(folder), **options})


def test_the_bytes_arrive_standardised_by_the_training_images(folder: Path) -> None:
    data = load(experiment(folder))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 4, 4))
    assert data.train.inputs.shape == (12, 1, 4, 4)
    assert data.test.inputs.shape == (5, 1, 4, 4)
    expected = (images - images.mean()) / images.std(ddof=1)
    torch.testing.assert_close(data.train.inputs[:, 0].double(), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(data.train.targets, torch.tensor(random.integers(0, 10, 12)))


def test_fewer_examples_are_the_same_for_every_seed(folder: Path) -> None:
    few = experiment(folder, train_examples=5, test_examples=2)
    a, b = load(few), load(few.replace(seed=3))
    assert torch.equal(a.train.inputs, b.train.inputs)
    assert len(a.train) == 5
    assert len(a.test) == 2


def damaged(folder: Path, name: str, change: object) -> Path:
    path = next(p for p in folder.iterdir() if p.name.startswith(FILES[name]))
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    content = change(content)  # type: ignore[operator]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("train images", lambda c: c[:-1], "expected 192 bytes after the header, got 191"),
        ("test images", lambda c: c + b"x", "expected 80 bytes after the header, got more"),
        ("train labels", lambda c: b"\x89PNG" + c, "expected an idx file of unsigned bytes with 1 dimensions"),
        ("test labels", lambda c: b"", "got an empty file"),
        ("test labels", lambda c: c[:4] + struct.pack(">I", 4) + c[8:-1], "as many labels as images in test, got 4, 5"),
        ("train labels", lambda c: c[:-2] + bytes((17,)) + c[-1:], "labels 0 to 9, got 17 in row 10"),
        ("train images", lambda c: c[:4] + b"\xff" * 12 + c[16:], "is it damaged"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, change: object, says: str) -> None:
    path = damaged(folder, name, change)
    with pytest.raises(ValueError, match=says) as refusal:
        load(experiment(folder))
    assert str(folder) in str(refusal.value)
    assert path.name in str(refusal.value) or "as many labels" in says


def test_a_compressed_file_that_is_cut_off_is_named(folder: Path) -> None:
    path = folder / f"{FILES['train images']}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: expected a whole idx file"):
        load(experiment(folder))


def test_a_missing_folder_says_where_the_data_come_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        load(experiment(tmp_path / "nowhere"))


@pytest.mark.parametrize("options", [{"train_examples": 0}, {"test_examples": 6}])
def test_more_examples_than_there_are_are_refused(folder: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="_examples: expected 1 to"):
        load(experiment(folder, **options))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Fashion-MNIST: apt-get install dataset-fashion-mnist")
def test_the_real_images() -> None:
    images = read_idx(DEBIAN / f"{FILES['train images']}.gz", 3)
    assert images.shape == (60_000, 28, 28)
    assert float(images.float().mean() / 255) == pytest.approx(0.2860, abs=1e-4)  # the mean that everybody uses
    data = load(Experiment(data="fashion-mnist", data_options={"train_examples": 2000, "test_examples": 500}))
    assert data.train.inputs.shape == (2000, 1, 28, 28)
    assert data.train.targets.bincount().min() > 150
    assert float(data.train.inputs.std()) == pytest.approx(1, abs=1e-4)

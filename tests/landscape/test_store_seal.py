"""The seal: every byte of the file is covered, only the blocks read are hashed, and an edit is seen however late."""

import os
import time

import h5py
import numpy as np
import pytest

from landscape import sealed_reader
from landscape.digest import BLOCK, USER_BLOCK, seal
from landscape.refused_file import RefusedFile
from landscape.sealed_reader import SealedFile


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "sealed.h5"
    with h5py.File(path, "w", userblock_size=USER_BLOCK) as file:
        file["x"] = np.random.default_rng(0).integers(0, 256, 20 * BLOCK + 777, dtype=np.uint8)
    seal(path)
    return path


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 16]))


def byte_at(path, position):
    with SealedFile(path) as file:
        file.seek(position)
        return file.read(1)


def test_the_head_of_the_file_says_what_it_is(path):
    head = path.read_bytes()[:USER_BLOCK].rstrip(b"\0").decode("ascii").splitlines()
    assert head[0] == "landscape-toolkit sealed HDF5, seal 1"
    assert [line.split("=")[0] for line in head[1:]] == ["hdf5_bytes", "block_bytes", "table_sha256", "header_sha256"]


def test_hdf5_finds_the_file_behind_the_seal(path):
    with h5py.File(path, "r") as file:
        assert file.userblock_size == USER_BLOCK
        assert file["x"].shape == (20 * BLOCK + 777,)


@pytest.mark.parametrize(
    "where", [0, 3, 60, 300, 511, 512, 600, 512 + BLOCK - 1, 512 + BLOCK, 15 * BLOCK, -1, -40, -700]
)
def test_no_byte_of_the_file_is_outside_the_seal(path, where):
    position = where % path.stat().st_size
    with SealedFile(path) as file:
        file.verify()
    flip(path, position)
    with pytest.raises(RefusedFile, match=r"damaged|not a file of this toolkit"), SealedFile(path) as file:
        file.verify()


def test_reads_anywhere_give_the_bytes_of_the_file(path):
    data = path.read_bytes()
    random = np.random.default_rng(1)
    with SealedFile(path) as file:
        whole = data[: file.length]
        for _ in range(200):
            start = int(random.integers(len(whole)))
            length = int(random.choice([1, 8, 500, BLOCK, BLOCK + 1, 5 * BLOCK]))
            file.seek(start)
            assert file.read(length) == whole[start : start + length]
        file.seek(0)
        assert file.read() == whole
        assert file.read() == b""


def test_pieces_in_any_order_are_filled_by_threads(path):
    data = path.read_bytes()
    starts = np.random.default_rng(2).permutation(np.arange(600, 18 * BLOCK, 3001))
    buffers = [(int(start), memoryview(bytearray(2000))) for start in starts] + [
        (700, memoryview(bytearray(17 * BLOCK)))
    ]
    with SealedFile(path) as file:
        file.fill(buffers)
    assert all(buffer == data[start : start + len(buffer)] for start, buffer in buffers)


def test_only_the_blocks_that_are_read_are_hashed(path, monkeypatch):
    flip(path, USER_BLOCK + 10 * BLOCK)
    with SealedFile(path) as file:
        file.seek(USER_BLOCK + 3 * BLOCK)
        hashed, sha256 = [], sealed_reader.sha256
        monkeypatch.setattr(sealed_reader, "sha256", lambda data: (hashed.append(len(data)), sha256(data))[1])
        file.read(BLOCK + 10)
        assert hashed == [BLOCK, BLOCK]
        file.seek(USER_BLOCK + 10 * BLOCK + 77)
        with pytest.raises(
            RefusedFile, match=f"bytes {USER_BLOCK + 10 * BLOCK} to {USER_BLOCK + 11 * BLOCK - 1} do not"
        ):
            file.read(1)


def test_a_settled_file_is_hashed_once_and_again_after_an_edit(path, monkeypatch):
    old = time.time() - 100
    monkeypatch.setattr(sealed_reader, "_SETTLED", 0)
    with SealedFile(path) as file:
        file.verify()
        file.read()
    hashed, sha256 = [], sealed_reader.sha256
    monkeypatch.setattr(sealed_reader, "sha256", lambda data: (hashed.append(len(data)), sha256(data))[1])
    with SealedFile(path) as file:
        file.read()
    assert BLOCK not in hashed
    flip(path, USER_BLOCK + 5 * BLOCK)
    os.utime(path, (old, old))  # the times of an edit cannot all be set back: ctime tells
    with pytest.raises(RefusedFile, match="damaged"), SealedFile(path) as file:
        file.read()


def test_a_file_that_just_changed_is_hashed_each_time(path):
    for position in (USER_BLOCK + 5 * BLOCK, USER_BLOCK + 9 * BLOCK):
        byte_at(path, position)
        flip(path, position)
        with pytest.raises(RefusedFile):
            byte_at(path, position)
        flip(path, position)

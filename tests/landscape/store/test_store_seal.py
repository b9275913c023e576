"""The seal: every byte of the file is covered, only the blocks read are digested, and an edit is seen however late."""

import hashlib

import h5py
import numpy as np
import pytest
import xxhash

from landscape.store.digest import BLOCK, SEALS, USER_BLOCK, Table, seal
from landscape.store.refused_file import RefusedFile
from landscape.store.sealed_reader import SealedFile


@pytest.fixture(params=SEALS, ids=lambda kind: f"seal {kind.number}")
def path(tmp_path, request):
    path = tmp_path / "sealed.h5"
    with h5py.File(path, "w", userblock_size=USER_BLOCK) as file:
        file["x"] = np.random.default_rng(0).integers(0, 256, 20 * BLOCK + 777, dtype=np.uint8)
    seal(path, request.param)
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


def test_the_head_of_the_file_says_what_it_is(path, request):
    kind = request.node.callspec.params["path"]
    head = path.read_bytes()[:USER_BLOCK].rstrip(b"\0").decode("ascii").splitlines()
    names = [f"table_{kind.digest_name}", f"header_{kind.digest_name}"]
    assert head[0] == f"landscape-toolkit sealed HDF5, seal {kind.number}"
    assert [line.split("=")[0] for line in head[1:]] == ["hdf5_bytes", "block_bytes", *names]


def test_anybody_can_check_the_seal(path, request):
    """The file as the head describes it, read without our code."""
    digest = {1: lambda b: hashlib.sha256(b).digest(), 2: lambda b: xxhash.xxh3_128(b).digest()}[
        request.node.callspec.params["path"].number
    ]
    data = path.read_bytes()
    fields = dict(line.split("=") for line in data[:USER_BLOCK].rstrip(b"\0").decode().splitlines()[1:])
    end = USER_BLOCK + int(fields["hdf5_bytes"])
    blocks = [data[start : min(start + 65536, end)] for start in range(USER_BLOCK, end, 65536)]
    assert data[end:] == b"".join(map(digest, blocks))
    assert [digest(data[end:]).hex()] == [value for name, value in fields.items() if name.startswith("table_")]


def test_what_is_sealed_today_is_the_newest_seal(path):
    with open(path, "r+b") as file, SealedFile(path) as sealed:
        file.truncate(sealed.length)  # without its table, as HDF5 leaves a file
    seal(path)
    assert path.read_bytes().startswith(b"landscape-toolkit sealed HDF5, seal 2\n")
    with SealedFile(path) as file:
        file.verify()


def test_a_seal_of_a_later_release_is_refused_by_its_number(path):
    data = path.read_bytes()
    path.write_bytes(data[:36] + b"7" + data[37:])
    with pytest.raises(RefusedFile, match="later release: expected seal 1 to 2, got 7"), SealedFile(path):
        pass


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


def test_only_the_blocks_that_are_read_are_digested(path, monkeypatch):
    flip(path, USER_BLOCK + 10 * BLOCK)
    with SealedFile(path) as file:
        file.seek(USER_BLOCK + 3 * BLOCK)
        checked, matches = [], Table.matches
        monkeypatch.setattr(
            Table, "matches", lambda t, block, data: (checked.append(block), matches(t, block, data))[1]
        )
        file.read(BLOCK + 10)
        assert checked == [3, 4]
        file.seek(USER_BLOCK + 10 * BLOCK + 77)
        with pytest.raises(
            RefusedFile, match=f"bytes {USER_BLOCK + 10 * BLOCK} to {USER_BLOCK + 11 * BLOCK - 1} do not"
        ):
            file.read(1)


def test_an_edit_between_two_openings_is_seen(path):
    for position in (USER_BLOCK + 5 * BLOCK, USER_BLOCK + 9 * BLOCK):
        byte_at(path, position)
        flip(path, position)
        with pytest.raises(RefusedFile):
            byte_at(path, position)
        flip(path, position)

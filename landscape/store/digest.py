"""The seal of a file: a digest of every 64 KiB of it, checked before anything interprets those bytes.

    bytes 0…511       user block: plain ASCII lines (length, block size, digest of the table, digest of these lines)
    bytes 512…        an ordinary HDF5 file, which HDF5 finds behind the user block by itself
    after its end     the table: one digest for each block of 64 KiB

The seal finds damage, accidents and edits; it is no signature: who can run this code can seal what they like, whatever
the digest (`guarded_hdf5.py` is for that case). So the digest is the 128 bits of XXH3, which memory cannot keep up
with; SHA-256, the digest of seal 1, took longer than reading the file. Seal 1 is read for ever and no longer written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from landscape.store.hdf5_target import write_all
from landscape.store.refused_file import RefusedFile

USER_BLOCK = 512
BLOCK = 1 << 16
_MAGIC = "landscape-toolkit sealed HDF5, seal "
THREADS = 4
SPAN = 64 * BLOCK  # what one thread reads and digests at a time


def _sha256(data: Any) -> bytes:
    return hashlib.sha256(data, usedforsecurity=False).digest()


class Seal(NamedTuple):
    """A version of the seal: its number, and the digest it is made with."""

    number: int
    digest_name: str
    digest: Callable[[Any], bytes]
    digest_bytes: int

    def header(self, length: int, table: bytes) -> bytes:
        """The user block of an HDF5 file of `length` bytes."""
        return self.closed(
            f"{_MAGIC}{self.number}\nhdf5_bytes={length}\nblock_bytes={BLOCK}\n"
            f"table_{self.digest_name}={self.digest(table).hex()}\n".encode()
        )

    def fields(self, header: bytes) -> tuple[int, bytes] | None:
        """Length and digest of the table; None when the user block is not as it was written."""
        digits = 2 * self.digest_bytes
        lines = re.match(
            rf"{_MAGIC}{self.number}\nhdf5_bytes=(\d{{1,19}})\nblock_bytes={BLOCK}\n"
            rf"table_{self.digest_name}=([0-9a-f]{{{digits}}})\n".encode(),
            header,
        )
        if lines is None or header != self.closed(lines[0]):
            return None
        return int(lines[1]), bytes.fromhex(lines[2].decode())

    def closed(self, lines: bytes) -> bytes:
        """The user block: `lines`, their own digest, and zeros."""
        last = f"header_{self.digest_name}={self.digest(lines).hex()}\n".encode()
        return (lines + last).ljust(USER_BLOCK, b"\0")


SEALS = (Seal(1, "sha256", _sha256, 32), Seal(2, "xxh3_128", xxhash.xxh3_128_digest, 16))


class Table(NamedTuple):
    """What a sealed file must be: `length` bytes of user block and HDF5 together, and the digest of each block."""

    seal: Seal
    length: int
    digests: bytes

    def matches(self, block: int, data: memoryview) -> bool:
        """Whether `data` is what this block was when it was sealed."""
        size = self.seal.digest_bytes
        return self.seal.digest(data) == self.digests[size * block : size * (block + 1)]


def seal(path: str | Path, kind: Seal = SEALS[-1]) -> None:
    """Seal a closed HDF5 file that has a user block of 512 bytes, and bring all of it to the disk."""
    with open(path, "r+b", buffering=0) as file, ThreadPoolExecutor(THREADS + 1) as pool:
        descriptor = file.fileno()
        to_disk = pool.submit(os.fsync, descriptor)  # the disk works while the digests are computed
        length = file.seek(0, os.SEEK_END) - USER_BLOCK

        def digests(start: int) -> bytes:
            buffer = memoryview(bytearray(BLOCK))
            table = []
            for offset in range(start, min(start + SPAN, length), BLOCK):
                got = os.preadv(descriptor, [buffer], USER_BLOCK + offset)
                table.append(kind.digest(buffer[:got]))
            return b"".join(table)

        table = b"".join(pool.map(digests, range(0, length, SPAN)))
        to_disk.result()
        write_all(descriptor, table, USER_BLOCK + length)
        write_all(descriptor, kind.header(length, table), 0)
        os.fsync(descriptor)


def read_seal(descriptor: int, path: Path) -> Table:
    """The table of an open file.

    Raises:
        RefusedFile: Not sealed by us, the seal is damaged or of a later release, or the file is longer or shorter than
            its seal says.
    """
    header = os.pread(descriptor, USER_BLOCK, 0)
    size = os.fstat(descriptor).st_size
    number = re.match(rf"{_MAGIC}(\d{{1,9}})\n".encode(), header)
    if number is None:
        raise RefusedFile(path, "not a file of this toolkit: it does not begin with its seal")
    kind = next((seal for seal in SEALS if seal.number == int(number[1])), None)
    if kind is None:
        raise RefusedFile(
            path,
            f"damaged, or of a later release: expected seal 1 to {SEALS[-1].number}, got {int(number[1])}; "
            "a newer release of this toolkit may read it",
        )
    fields = kind.fields(header)
    if fields is None:
        raise RefusedFile(path, "damaged: its seal is not as it was written")
    length, digest = fields
    table_bytes = kind.digest_bytes * -(-length // BLOCK)
    expected = USER_BLOCK + length + table_bytes
    if size != expected:
        raise RefusedFile(path, f"incomplete or altered: expected {expected} bytes, got {size}")
    table = os.pread(descriptor, table_bytes, USER_BLOCK + length)
    if kind.digest(table) != digest:
        raise RefusedFile(path, "damaged: its table of digests does not match the seal")
    return Table(kind, USER_BLOCK + length, table)

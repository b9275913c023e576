"""The seal of a file: SHA-256 of every 64 KiB of it, checked before anything interprets those bytes.

    bytes 0…511       user block: plain ASCII lines (length, block size, digest of the table, digest of these lines)
    bytes 512…        an ordinary HDF5 file, which HDF5 finds behind the user block by itself
    after its end     the table: 32 bytes of SHA-256 for each block of 64 KiB

The seal finds damage, accidents and edits; it is no signature: who can run this code can seal what they like. See
`guarded_hdf5.py` for that case and `sealed_reader.py` for reading.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from landscape.refused_file import RefusedFile

USER_BLOCK = 512
BLOCK = 1 << 16
_MAGIC = "landscape-toolkit sealed HDF5, seal 1"
_HEADER = re.compile(
    rf"{_MAGIC}\nhdf5_bytes=(\d{{1,19}})\nblock_bytes={BLOCK}\ntable_sha256=([0-9a-f]{{64}})\n".encode()
)
THREADS = 4
SPAN = 64 * BLOCK  # what one thread reads and hashes at a time


def sha256(data: Any) -> bytes:
    """The digest of anything with bytes."""
    return hashlib.sha256(data, usedforsecurity=False).digest()


def seal(path: str | Path) -> None:
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
                table.append(sha256(buffer[:got]))
            return b"".join(table)

        table = b"".join(pool.map(digests, range(0, length, SPAN)))
        to_disk.result()
        _write_all(descriptor, table, USER_BLOCK + length)
        _write_all(descriptor, _header(length, table), 0)
        os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def read_seal(descriptor: int, path: Path) -> tuple[int, bytes]:
    """Of an open file, the length of user block and HDF5 together, and the table of digests.

    Raises:
        RefusedFile: Not sealed by us, the seal is damaged, or the file is longer or shorter than its seal says.
    """
    header = os.pread(descriptor, USER_BLOCK, 0)
    size = os.fstat(descriptor).st_size
    if not header.startswith(_MAGIC.encode() + b"\n"):
        raise RefusedFile(path, "not a file of this toolkit: it does not begin with its seal")
    fields = _HEADER.match(header)
    if fields is None or header != _closed(fields[0]):
        raise RefusedFile(path, "damaged: its seal is not as it was written")
    length, blocks = int(fields[1]), -(-int(fields[1]) // BLOCK)
    expected = USER_BLOCK + length + 32 * blocks
    if size != expected:
        raise RefusedFile(path, f"incomplete or altered: expected {expected} bytes, got {size}")
    table = os.pread(descriptor, 32 * blocks, USER_BLOCK + length)
    if sha256(table).hex() != fields[2].decode():
        raise RefusedFile(path, "damaged: its table of digests does not match the seal")
    return USER_BLOCK + length, table


def _header(length: int, table: bytes) -> bytes:
    return _closed(f"{_MAGIC}\nhdf5_bytes={length}\nblock_bytes={BLOCK}\ntable_sha256={sha256(table).hex()}\n".encode())


def _closed(lines: bytes) -> bytes:
    """The user block: `lines`, their own digest, and zeros."""
    return (lines + f"header_sha256={sha256(lines).hex()}\n".encode()).ljust(USER_BLOCK, b"\0")

"""The seal of a file: SHA-256 of every 64 KiB of it, checked before anything interprets those bytes.

    bytes 0…511       user block: plain ASCII lines (length, block size, digest of the table, digest of these lines)
    bytes 512…        an ordinary HDF5 file, which HDF5 finds behind the user block by itself
    after its end     the table: 32 bytes of SHA-256 for each block of 64 KiB

A `SealedFile` hands out no byte whose block has not matched its digest, so one number is read from a file of gigabytes
at the price of the blocks it lies in, and what was checked is what is used. The seal finds damage, accidents and
edits; it is no signature: who can run this code can seal what they like. See `guarded_hdf5.py` for that case.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from landscape.refused_file import RefusedFile

USER_BLOCK = 512
BLOCK = 1 << 16
_MAGIC = "landscape-toolkit sealed HDF5, seal 1"
_HEADER = re.compile(
    rf"{_MAGIC}\nhdf5_bytes=(\d{{1,19}})\nblock_bytes={BLOCK}\ntable_sha256=([0-9a-f]{{64}})\n".encode()
)
_THREADS = min(4, os.cpu_count() or 1)
_CACHED_BLOCKS = 64


def _sha256(data: Any) -> bytes:
    return hashlib.sha256(data, usedforsecurity=False).digest()


def _in_parts(pool: ThreadPoolExecutor, blocks: int, part: Callable[[int, int], bytes]) -> bytes:
    """`part(first, last)` over `blocks` blocks, split evenly over the threads; the answers joined in order."""
    cuts = [blocks * i // _THREADS for i in range(_THREADS + 1)]
    return b"".join(pool.map(part, cuts[:-1], cuts[1:]))


def seal(path: str | Path) -> None:
    """Seal a closed HDF5 file that has a user block of 512 bytes, and bring all of it to the disk."""
    with open(path, "r+b", buffering=0) as file, ThreadPoolExecutor(_THREADS + 1) as pool:
        descriptor = file.fileno()
        to_disk = pool.submit(os.fsync, descriptor)  # the disk works while the digests are computed
        length = file.seek(0, os.SEEK_END) - USER_BLOCK

        def digests(first: int, last: int) -> bytes:
            buffer = memoryview(bytearray(BLOCK))
            table = []
            for block in range(first, last):
                got = os.preadv(descriptor, [buffer], USER_BLOCK + block * BLOCK)
                table.append(_sha256(buffer[:got]))
            return b"".join(table)

        table = _in_parts(pool, -(-length // BLOCK), digests)
        to_disk.result()
        _write_all(descriptor, table, USER_BLOCK + length)
        _write_all(descriptor, _header(length, table), 0)
        os.fsync(descriptor)


def _header(length: int, table: bytes) -> bytes:
    lines = f"{_MAGIC}\nhdf5_bytes={length}\nblock_bytes={BLOCK}\ntable_sha256={_sha256(table).hex()}\n".encode()
    return (lines + f"header_sha256={_sha256(lines).hex()}\n".encode()).ljust(USER_BLOCK, b"\0")


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class SealedFile(io.RawIOBase):
    """A sealed file for reading; every byte it hands out has matched the seal, otherwise `RefusedFile`.

    Opening reads the user block and the table (0.05 % of the file). No lock is taken.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.damage: RefusedFile | None = None  # HDF5 swallows what a callback raises; kept here for whoever opened it
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115  (closed by close())
        try:
            self._descriptor = self._file.fileno()
            self._position = 0
            self._length, self._table = self._unseal()
        except BaseException:
            self._file.close()
            raise
        self._blocks: dict[int, memoryview] = {}
        self._pool: ThreadPoolExecutor | None = None

    def _unseal(self) -> tuple[int, bytes]:
        """Length up to the end of the HDF5 part, and the table of digests."""
        header = os.pread(self._descriptor, USER_BLOCK, 0)
        size = os.fstat(self._descriptor).st_size
        if not header.startswith(_MAGIC.encode() + b"\n"):
            raise RefusedFile(self.path, "not a file of this toolkit: it does not begin with its seal")
        fields = _HEADER.match(header)
        if fields is None or header != (fields[0] + f"header_sha256={_sha256(fields[0]).hex()}\n".encode()).ljust(
            USER_BLOCK, b"\0"
        ):
            raise RefusedFile(self.path, "damaged: its seal is not as it was written")
        length, blocks = int(fields[1]), -(-int(fields[1]) // BLOCK)
        expected = USER_BLOCK + length + 32 * blocks
        if size != expected:
            raise RefusedFile(self.path, f"incomplete or altered: expected {expected} bytes, got {size}")
        table = os.pread(self._descriptor, 32 * blocks, USER_BLOCK + length)
        if _sha256(table).hex() != fields[2].decode():
            raise RefusedFile(self.path, "damaged: its table of digests does not match the seal")
        return USER_BLOCK + length, table

    @property
    def length(self) -> int:
        """Bytes of user block and HDF5 together: nothing in the file may claim to be larger."""
        return self._length

    def verify(self) -> None:
        """Read and check all of it."""
        buffer = memoryview(bytearray(64 * BLOCK))
        self.seek(USER_BLOCK)
        while self.tell() < self._length:
            self.readinto(buffer)

    def readinto(self, buffer: Any) -> int:  # type: ignore[override]
        """Fill `buffer` from the current position with checked bytes; fewer only at the end of the file."""
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._length - self._position)]
        try:
            self._fill(view, self._position)
        except RefusedFile as damage:
            self.damage = self.damage or damage
            raise
        self._position += len(view)
        return len(view)

    def _fill(self, view: memoryview, position: int) -> None:
        if position < USER_BLOCK:  # already matched against its own digest when the file was opened
            head = min(len(view), USER_BLOCK - position)
            view[:head] = os.pread(self._descriptor, head, position)
            view, position = view[head:], position + head
        while view:
            block, offset = divmod(position - USER_BLOCK, BLOCK)
            whole = len(view) // BLOCK
            if offset == 0 and whole:
                self._fill_blocks(view[: whole * BLOCK], block, whole)
                taken = whole * BLOCK
            else:
                piece = self._block(block)[offset : offset + len(view)]
                view[: len(piece)] = piece
                taken = len(piece)
            view, position = view[taken:], position + taken

    def _fill_blocks(self, view: memoryview, first: int, count: int) -> None:
        """Whole blocks straight into `view`, read and hashed by several threads."""

        def part(start: int, end: int) -> bytes:
            target = view[start * BLOCK : end * BLOCK]
            self._pread(target, USER_BLOCK + (first + start) * BLOCK)
            for i in range(start, end):
                self._check(view[i * BLOCK : (i + 1) * BLOCK], first + i)
            return b""

        if count < 2 * _THREADS:
            part(0, count)
            return
        self._pool = self._pool or ThreadPoolExecutor(_THREADS)
        _in_parts(self._pool, count, part)

    def _block(self, index: int) -> memoryview:
        """One block through a small cache: HDF5 reads its own structures a few bytes at a time."""
        if index not in self._blocks:
            start = USER_BLOCK + index * BLOCK
            block = memoryview(bytearray(min(BLOCK, self._length - start)))
            self._pread(block, start)
            self._check(block, index)
            if len(self._blocks) == _CACHED_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[index] = block
        return self._blocks[index]

    def _pread(self, view: memoryview, offset: int) -> None:
        while view:
            got = os.preadv(self._descriptor, [view], offset)
            if not got:
                raise RefusedFile(
                    self.path, f"incomplete: it ends at byte {offset}, which was not so when it was opened"
                )
            view, offset = view[got:], offset + got

    def _check(self, data: memoryview, block: int) -> None:
        if _sha256(data) != self._table[32 * block : 32 * block + 32]:
            start = USER_BLOCK + block * BLOCK
            raise RefusedFile(
                self.path,
                f"damaged: bytes {start} to {start + len(data) - 1} do not match the digest they were sealed with",
            )

    def read(self, size: int = -1) -> bytes:
        """At most `size` checked bytes from the current position, by default all that follow."""
        left = max(0, self._length - self._position)
        buffer = bytearray(left if size < 0 else min(size, left))
        self.readinto(buffer)
        return bytes(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The current position."""
        return self._position

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Let go of the file and the threads."""
        if not self.closed and getattr(self, "_pool", None) is not None:
            self._pool.shutdown()  # type: ignore[union-attr]
        if hasattr(self, "_file"):
            self._file.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

"""The seal of a file: SHA-256 of every 64 KiB of it, checked before anything interprets those bytes.

    bytes 0…511       user block: plain ASCII lines (length, block size, digest of the table, digest of these lines)
    bytes 512…        an ordinary HDF5 file, which HDF5 finds behind the user block by itself
    after its end     the table: 32 bytes of SHA-256 for each block of 64 KiB

A `SealedFile` hands out no byte whose block has not matched its digest, so one number is read from a file of gigabytes
at the price of the blocks it lies in, and what was checked is what is used. A process hashes each block of an unchanged
file once: SHA-256 runs at 1 to 2 GB/s a core, faster than a disk but not than memory. The seal finds damage, accidents
and edits; it is no signature: who can run this code can seal what they like. See `guarded_hdf5.py` for that case.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
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
_THREADS = 4
_CACHED_BLOCKS = 64
_SPAN = 64 * BLOCK  # what one thread reads and hashes at a time

# Which blocks this process has hashed, for the files it read last. An edit changes size or times, and so the key; file
# systems count time in steps of milliseconds, so a file that has just changed may change again unseen and is not here.
_known: OrderedDict[tuple[int, ...], bytearray] = OrderedDict()
_known_guard = threading.Lock()
_KNOWN_FILES = 256
_SETTLED = 2_000_000_000  # nanoseconds


def _sha256(data: Any) -> bytes:
    return hashlib.sha256(data, usedforsecurity=False).digest()


def seal(path: str | Path) -> None:
    """Seal a closed HDF5 file that has a user block of 512 bytes, and bring all of it to the disk."""
    with open(path, "r+b", buffering=0) as file, ThreadPoolExecutor(_THREADS + 1) as pool:
        descriptor = file.fileno()
        to_disk = pool.submit(os.fsync, descriptor)  # the disk works while the digests are computed
        length = file.seek(0, os.SEEK_END) - USER_BLOCK

        def digests(start: int) -> bytes:
            buffer = memoryview(bytearray(BLOCK))
            table = []
            for offset in range(start, min(start + _SPAN, length), BLOCK):
                got = os.preadv(descriptor, [buffer], USER_BLOCK + offset)
                table.append(_sha256(buffer[:got]))
            return b"".join(table)

        table = b"".join(pool.map(digests, range(0, length, _SPAN)))
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
        self._known = self._recall()

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

    def _recall(self) -> bytearray:
        """One flag a block: whether this process has found it to match, in this very state of the file."""
        s = os.fstat(self._descriptor)
        flags = bytearray(len(self._table) // 32)
        if time.time_ns() - max(s.st_mtime_ns, s.st_ctime_ns) < _SETTLED:
            return flags
        key = (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, hash(self._table))
        with _known_guard:
            flags = _known.setdefault(key, flags)
            _known.move_to_end(key)
            if len(_known) > _KNOWN_FILES:
                _known.popitem(last=False)
        return flags

    @property
    def length(self) -> int:
        """Bytes of user block and HDF5 together: nothing in the file may claim to be larger."""
        return self._length

    def verify(self) -> None:
        """Read and check all of it, whatever was checked before."""
        self._known[:] = bytes(len(self._known))
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(self._verify_span, range(USER_BLOCK, self._length, _SPAN)):
                pass

    def _verify_span(self, start: int) -> None:
        buffer = memoryview(bytearray(BLOCK))
        for position in range(start, min(start + _SPAN, self._length), BLOCK):
            self._fill(buffer[: self._length - position], position, {})

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the current position with checked bytes; fewer only at the end of the file."""
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._length - self._position)]
        try:
            self._fill(view, self._position, self._blocks)
        except RefusedFile as damage:
            self.damage = self.damage or damage
            raise
        self._position += len(view)
        return len(view)

    def fill(self, pieces: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each (position, view) with checked bytes, by several threads; all must lie inside `length`."""
        spans = []
        for position, view in sorted(pieces, key=lambda piece: piece[0]):
            while view:
                end = _SPAN - (position - USER_BLOCK) % _SPAN  # cut where blocks end, so that none is hashed twice
                spans.append((position, view[:end]))
                position, view = position + len(view[:end]), view[end:]
        if sum(len(view) for _, view in spans) <= _SPAN:
            self._fill_spans(spans)
            return
        share = -(-len(spans) // (4 * _THREADS))
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(self._fill_spans, [spans[i : i + share] for i in range(0, len(spans), share)]):
                pass

    def _fill_spans(self, spans: list[tuple[int, memoryview]]) -> None:
        blocks: dict[int, memoryview] = {}
        for position, view in spans:
            self._fill(view, position, blocks)

    def _fill(self, view: memoryview, position: int, blocks: dict[int, memoryview]) -> None:
        if position < USER_BLOCK:  # already matched against its own digest when the file was opened
            head = min(len(view), USER_BLOCK - position)
            view[:head] = os.pread(self._descriptor, head, position)
            view, position = view[head:], position + head
        while view:
            block, offset = divmod(position - USER_BLOCK, BLOCK)
            whole = len(view) // BLOCK * BLOCK
            if offset == 0 and whole:
                self._pread(view[:whole], position)
                for start in range(0, whole, BLOCK):
                    self._check(view[start : start + BLOCK], block + start // BLOCK)
                taken = whole
            else:
                piece = self._block(block, blocks)[offset : offset + len(view)]
                view[: len(piece)] = piece
                taken = len(piece)
            view, position = view[taken:], position + taken

    def _block(self, index: int, blocks: dict[int, memoryview]) -> memoryview:
        """One block through a small cache: structures and small arrays are read a few bytes at a time."""
        if index not in blocks:
            start = USER_BLOCK + index * BLOCK
            block = memoryview(bytearray(min(BLOCK, self._length - start)))
            self._pread(block, start)
            self._check(block, index)
            if len(blocks) == _CACHED_BLOCKS:
                del blocks[next(iter(blocks))]
            blocks[index] = block
        return blocks[index]

    def _pread(self, view: memoryview, offset: int) -> None:
        while view:
            got = os.preadv(self._descriptor, [view], offset)
            if not got:
                raise RefusedFile(
                    self.path, f"incomplete: it ends at byte {offset}, which was not so when it was opened"
                )
            view, offset = view[got:], offset + got

    def _check(self, data: memoryview, block: int) -> None:
        if self._known[block]:
            return
        if _sha256(data) != self._table[32 * block : 32 * block + 32]:
            start = USER_BLOCK + block * BLOCK
            raise RefusedFile(
                self.path,
                f"damaged: bytes {start} to {start + len(data) - 1} do not match the digest they were sealed with",
            )
        self._known[block] = 1

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
        """Let go of the file."""
        if hasattr(self, "_file"):
            self._file.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

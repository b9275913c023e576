"""Reading a sealed file: no byte is handed out whose block has not matched its digest.

One number is read from a file of gigabytes at the price of the blocks it lies in, and HDF5 parses only what was checked.
Nothing is remembered between two openings: the digest costs less than the reading.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from landscape.store.digest import BLOCK, SPAN, THREADS, USER_BLOCK, read_seal
from landscape.store.refused_file import RefusedFile

_CACHED_BLOCKS = 64


class SealedFile(io.RawIOBase):
    """A sealed file for reading; every byte it hands out has matched the seal, otherwise `RefusedFile`.

    Opening reads the user block and the table (0.02 % of the file). No lock is taken.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        # HDF5 swallows what a callback raises, so whoever opened the file asks here. The words, not the exception: its
        # traceback would keep HDF5's driver alive until after HDF5 has shut down, and the process would end in a crash
        self.damage: str | None = None
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115  (closed by close())
        try:
            self._descriptor = self._file.fileno()
            self._position = 0
            self._table = read_seal(self._descriptor, self.path)
            self._length = self._table.length
        except BaseException:
            self._file.close()
            raise
        self._blocks: dict[int, memoryview] = {}

    @property
    def length(self) -> int:
        """Bytes of user block and HDF5 together: nothing in the file may claim to be larger."""
        return self._length

    def verify(self) -> None:
        """Read and check all of it."""
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(self._verify_span, range(USER_BLOCK, self._length, SPAN)):
                pass

    def _verify_span(self, start: int) -> None:
        buffer = memoryview(bytearray(BLOCK))
        for position in range(start, min(start + SPAN, self._length), BLOCK):
            self._fill(buffer[: self._length - position], position, {})

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the current position with checked bytes; fewer only at the end of the file."""
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._length - self._position)]
        try:
            self._fill(view, self._position, self._blocks)
        except RefusedFile as damage:
            self.damage = self.damage or damage.reason
            raise
        self._position += len(view)
        return len(view)

    def fill(self, pieces: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each (position, view) with checked bytes, by several threads; all must lie inside `length`."""
        spans = []
        for position, view in sorted(pieces, key=lambda piece: piece[0]):
            while view:
                end = SPAN - (position - USER_BLOCK) % SPAN  # cut where blocks end, so that none is hashed twice
                spans.append((position, view[:end]))
                position, view = position + len(view[:end]), view[end:]
        if sum(len(view) for _, view in spans) <= SPAN:
            self._fill_spans(spans)
            return
        share = -(-len(spans) // (4 * THREADS))
        with ThreadPoolExecutor(THREADS) as pool:
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
        if not self._table.matches(block, data):
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
        """Let go of the file."""
        if hasattr(self, "_file"):
            self._file.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

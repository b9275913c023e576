"""The file that HDF5 writes to, which never tells HDF5 that anything is wrong.

HDF5 cannot close a file whose disk is full: it keeps it open, tries again when the process ends, and crashes there. So
a write that fails is noted here, HDF5 goes on as if it had succeeded, and who opened the file raises what was noted once
HDF5 has let go of it. Writes go straight to the disk; no copy of the file is made.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Hdf5Target(io.RawIOBase):
    """A new file for `h5py.File(target, "w")`; `failure` is the first error of the system, or None.

    What is written after a failure is dropped, and what is read of it is zeros: HDF5 reads nothing back of what it
    writes in one go, and the file is to be deleted in any case.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.failure: BaseException | None = None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._position = 0
        self._length = 0

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Do it unless something failed before; an interruption from the keyboard is kept for later as well."""
        if self.failure is None:
            try:
                action()
            except BaseException as failure:  # nothing may come up inside a call of HDF5
                self.failure = failure.with_traceback(None)

    def write(self, data: Any) -> int:
        """All of `data` at the current position."""
        view = memoryview(data).cast("B")
        position = self._position
        self._position += len(view)
        self._length = max(self._length, self._position)
        self._attempt(lambda: write_all(self._descriptor, view, position))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the current position, with zeros where nothing was written."""
        view = memoryview(buffer).cast("B")
        data = bytearray(len(view))
        self._attempt(lambda: os.preadv(self._descriptor, [data], self._position))
        view[:] = data
        self._position += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as any file."""
        self._position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence] + offset
        return self._position

    def tell(self) -> int:
        """The current position."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self._length = self._position if size is None else size
        self._attempt(lambda: os.ftruncate(self._descriptor, self._length))
        return self._length

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Let go of the file; what the system says to that is noted as well."""
        if not self.closed:
            super().close()
            try:
                os.close(self._descriptor)
            except OSError as failure:
                self.failure = self.failure or failure


def write_all(descriptor: int, data: Any, offset: int) -> None:
    """Write all of `data` from byte `offset` of an open file on."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written

"""One writer a run: a lock that two processes cannot both hold and that a process cannot keep by dying.

Two locks, since each has a gap that the other closes; the kernel frees both with the process, and readers take none:

- `flock` on the folder itself, which no deleting or replacing of files in it takes away. Some network file systems have
  it for files only.
- a POSIX record lock (`fcntl.lockf`) on the file `.writer` in it, which NFS carries between machines. The file also
  says who holds the locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

NAME = ".writer"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
_TAKEN = {errno.EACCES, errno.EAGAIN}
_held: dict[Path, tuple[int, int]] = {}  # record locks do not exclude the threads of one process from each other
_guard = threading.Lock()


class RunInUse(RuntimeError):
    """Another process, or another training in this one, writes to the run."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of the run in `folder` for the length of the block.

    Raises:
        RunInUse: Somebody else is; says who.
        OSError: The folder is not writable.
    """
    path = folder.resolve()
    with _guard:
        if path in _held:
            raise RunInUse(f"{folder}: this process already writes to it; let the first training end")
        file = os.open(path / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        itself = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _lock(file, itself, folder)
            os.truncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BaseException:
            os.close(file)
            os.close(itself)
            raise
        _held[path] = file, itself
    try:
        yield
    finally:
        with _guard:
            for descriptor in _held.pop(path, ()):  # none of them in a forked child, which let go of them
                with contextlib.suppress(OSError):  # a child that was forked this moment still has a copy
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)


def _lock(file: int, itself: int, folder: Path) -> None:
    for lock, descriptor in ((fcntl.flock, itself), (fcntl.lockf, file)):
        try:
            lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
                raise RunInUse(
                    f"{folder}: {holder} writes to it; wait for it, or stop it, or train in another folder"
                ) from error
            if error.errno not in _UNSUPPORTED:
                raise
            if descriptor == file:
                warnings.warn(
                    f"{folder}: this file system has no locks; see that only one process trains here", stacklevel=4
                )


def _let_go() -> None:
    """Close what a forked child inherited: it must not keep a lock whose holder died."""
    for descriptors in _held.values():
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)

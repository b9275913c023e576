"""One writer a run: a lock that two processes cannot both hold and that a process cannot keep by dying.

A POSIX record lock (`fcntl.lockf`) on a file beside the checkpoints; the kernel frees it with the process, and NFS
carries it between machines. Readers take none.
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
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_held: set[Path] = set()  # record locks do not exclude the threads of one process from each other; this does
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
    path = folder.resolve() / NAME
    with _guard:
        if path in _held:
            raise RunInUse(f"{folder}: this process already writes to it; let the first training end")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor, folder)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        _held.add(path)
    try:
        yield
    finally:
        with _guard:
            _held.discard(path)
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise RunInUse(
                f"{folder}: {holder} writes to it; wait for it, or stop it, or train in another folder"
            ) from error
        if error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(f"{folder}: this file system has no locks; see that only one process trains here", stacklevel=4)

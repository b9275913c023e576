"""A file that is either all there under its name or not there at all, whatever happens while it is written.

Temporary name in the same folder → write → fsync → os.replace → fsync of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends, and is removed if the block raises.

    The block must leave its file closed and fsynced. An OSError in it comes out as one that names `path`.
    """
    path = Path(path)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            os.truncate(temporary, 0)  # gives the space back even if a library that failed to close it holds it open
            temporary.unlink()
        if isinstance(error, OSError):
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, atomically."""
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete what a writer that died left under temporary names; only for who holds the lock of the run."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)

"""A file that is either all there under its name or not there at all, whatever happens while it is written.

Temporary folder beside the target → write in it → fsync → os.replace → fsync of the folder.

The temporary folder is locked by who writes in it and the kernel frees the lock with the process, so whoever can lock it
knows that its writer died: leftovers are recognised without a guess, also from another machine, also beside a writer
that lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
_OURS = re.compile(rf"{re.escape(TEMPORARY)}\d+-[0-9a-f]{{8}}")


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends, and is removed if the block raises.

    The block must leave its file closed and fsynced. What a writer of the same `path` left when it was killed is removed
    first. An OSError in the block comes out as one that names `path`.
    """
    path = Path(path)
    folder: Path | None = None
    descriptor = -1
    try:
        remove_leftovers(path.parent, of=path.name)
        folder, descriptor = _new_folder(path.parent)
        temporary = folder / path.name
        yield temporary
        os.replace(temporary, path)
        folder.rmdir()
    except BaseException as error:
        if folder is not None:
            with contextlib.suppress(OSError):  # the folder itself may be what is wrong
                with contextlib.suppress(FileNotFoundError):
                    # gives the space back even if a library that failed to close it holds it open
                    os.truncate(folder / path.name, 0)
                shutil.rmtree(folder)
        if isinstance(error, OSError):
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    sync_folder(path.parent)


def _new_folder(parent: Path) -> tuple[Path, int]:
    """A temporary folder in `parent`, and the descriptor that holds its lock."""
    while True:
        folder = parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # removed as a leftover in the moment before it was locked
        with contextlib.suppress(OSError):  # a file system without locks: nobody else can lock it either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, atomically."""
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_being_written(temporary: Path) -> bool:
    """Whether the process that writes in a temporary folder may be alive: it holds the lock, or there are no locks."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return not temporary.exists()  # it became its target, or was removed, in this moment
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Delete what writers that died left in `folder`, or only what they meant to become the file called `of`.

    Anybody may do so at any time. What stands alone under a temporary name was left by an older version of ours and is
    deleted where all leftovers are.
    """
    for leftover in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # somebody else was faster, or the folder is not ours to change
            if of is None and leftover.is_file():
                leftover.unlink()
            elif _OURS.fullmatch(leftover.name) and (of is None or set(os.listdir(leftover)) <= {of}):
                _remove_unlocked(leftover)


def _remove_unlocked(leftover: Path) -> None:
    """Delete a temporary folder unless its writer lives; who begins to write in it meanwhile notices that it is gone."""
    descriptor = os.open(leftover, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(leftover)
    finally:
        os.close(descriptor)

"""What something was made of, so that a glance tells whether it still is: names, sizes and times, no file is read.

    note(folder / "made_of.json", key, files)
    unchanged(folder / "made_of.json", key)         True while every file is there as it was noted

`key` stands for what is no file of ours, as `of_code`. A file that was changed and has its size and its time of before is
taken for unchanged: `landscape verify` reads every byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from landscape.store.atomic_file import write_text


def note(path: Path, key: str, files: Iterable[Path]) -> None:
    """Write down `key` and the states of `files` now."""
    states = {Path(os.path.relpath(file, path.parent)).as_posix(): _state(file) for file in files}
    write_text(path, json.dumps({"key": key, "files": states}))


def unchanged(path: Path, key: str) -> bool:
    """Whether `key` and all files are as they were noted; False where nothing was noted, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        noted = json.loads(path.read_text(encoding="utf-8"))
        return noted["key"] == key and all(
            _state(path.parent / name) == state for name, state in noted["files"].items()
        )
    return False


def of_code(*folders: Path) -> str:
    """A digest of the Python files below `folders`, which decide what is made of files. Cost: reading them."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"\n{file.relative_to(folder).as_posix()}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _state(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]

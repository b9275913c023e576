"""The names of the files in a run's folder, and which folders may become one."""

from __future__ import annotations

import re
from pathlib import Path

from landscape.runs.lock import NAME as LOCK
from landscape.store.atomic_file import TEMPORARY

METRICS_FILE = re.compile(r"to-[0-9]{8,16}\.h5")
_CHECKPOINT = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,15})\.h5")  # one name for each step


def step_of(file: Path) -> int | None:
    """The step whose checkpoint a file of this name is; None for any other file."""
    name = _CHECKPOINT.fullmatch(file.name)
    return None if name is None else int(name[1])


def barely_begun(path: Path) -> bool:
    """Whether a folder has nothing but what `Run.create` makes before the experiment: it may have died there."""
    own = {LOCK, "checkpoints", "analyses"}
    return all(
        entry.name.startswith(TEMPORARY) or (entry.name in own and (entry.is_file() or not any(entry.iterdir())))
        for entry in path.iterdir()
    )

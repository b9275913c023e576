"""A second checkpoint that an analysis asks about beside the first: `other: Checkpoint`, by object or by where it lies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.runs.run import Checkpoint, Run


def checkpoint_of(given: Any) -> Checkpoint:
    """The checkpoint that `given` is: itself, the last of a run, a checkpoint's file, `runs/b` or `runs/b@1200`.

    After the @ stands a step, `first` or `last`. Raises FileNotFoundError and KeyError where there is none, TypeError
    for anything else.
    """
    if isinstance(given, Checkpoint):
        return given
    if isinstance(given, Run):
        return given.checkpoint("last")
    if not isinstance(given, str | Path):
        raise TypeError(f"expected a checkpoint, a run, or the path of one, got {type(given).__name__}")
    path = Path(given)
    if path.is_file():
        return Checkpoint.open(path)
    folder, at, step = str(given).rpartition("@")
    if path.is_dir() or not at:
        return Run.open(path).checkpoint("last")
    return Run.open(folder).checkpoint(int(step) if step.isdecimal() else step)


def subjects_of(options: Mapping[str, inspect.Parameter]) -> list[str]:
    """The options that are checkpoints, by their annotation."""
    return [name for name, option in options.items() if "Checkpoint" in str(option.annotation)]


def vectors_of(options: Mapping[str, inspect.Parameter]) -> list[str]:
    """The options that are vectors: they stand in no file and on no command line, a checkpoint brings them."""
    return [name for name, option in options.items() if "Tensor" in str(option.annotation)]


def in_words(checkpoint: Checkpoint) -> str:
    """Run and step, for attributes."""
    folder = checkpoint.path.resolve().parents[1].name
    return f"{folder}@{checkpoint.step}"

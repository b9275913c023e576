"""Whose code runs: a `package.module:name` (model, data, base or method) is imported where you named it, never by a file.

Somebody else's run, archive, recipe or study may name any function of any package, with arguments. So a name is imported
only if it is yours:

- you typed it, as an option of a command or in Python (`Experiment(model="mine.nets:net")`), or
- you have trained with it before (`train` notes the names in ~/.local/state/landscape-toolkit/imports.txt), or
- you allow it: `--allow mine.nets:net`, or LANDSCAPE_ALLOW=mine.nets:net (several: with commas), or `allow("mine.nets:net")`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

VARIABLE = "LANDSCAPE_ALLOW"
_allowed: set[str] = set()
_reading: ContextVar[bool] = ContextVar("reading a file", default=False)


@contextlib.contextmanager
def from_file() -> Iterator[None]:
    """Names met in this block were read from a file: they are nobody's until somebody allows them."""
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def met(names: Iterable[str]) -> None:
    """Take note of what an experiment names: allowed in this process, unless a file is being read."""
    if not _reading.get():
        allow(*names)


def allow(*names: str) -> None:
    """Let these names be imported in this process."""
    _allowed.update(name for name in names if ":" in name)


def require(kind: str, name: str) -> None:
    """Raise unless `name` may be imported.

    Raises:
        PermissionError: It stands in a file, and nobody allowed it.
    """
    if name not in _allowed | set(os.environ.get(VARIABLE, "").split(",")) and name not in _remembered():
        raise PermissionError(
            f"{kind} {name!r}: a file asks to run this code, and you have not named it yourself; if you trust it, "
            f"say --allow {name}, or set {VARIABLE}={name}"
        )


def remember(names: Iterable[str]) -> None:
    """Allow these names from now on, in every process of this user; without a home folder, in this process only."""
    allow(*names)
    known = _remembered()
    new = sorted({name for name in names if ":" in name and name not in known})
    if new:
        with contextlib.suppress(OSError, RuntimeError):
            _list().parent.mkdir(parents=True, exist_ok=True)
            with open(_list(), "a", encoding="utf-8") as file:
                file.write("".join(f"{name}\n" for name in new))


def _list() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "landscape-toolkit" / "imports.txt"


def _remembered() -> set[str]:
    try:
        return set(_list().read_text(encoding="utf-8").split("\n"))
    except (OSError, RuntimeError, UnicodeError):
        return set()

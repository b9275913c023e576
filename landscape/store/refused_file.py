"""The one error for a file that is not ours, not whole or not what it says it is."""

from __future__ import annotations

from pathlib import Path


class RefusedFile(ValueError):
    """`path` was not used, for the stated `reason`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        """The file, then the reason."""
        return f"{self.path}: {self.reason}"

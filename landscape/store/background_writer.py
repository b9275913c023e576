"""Files written while training goes on: the training waits for a copy in memory, a thread for the disk.

    with BackgroundWriter(run.write) as writer:
        writer.submit(contents)            # copies, returns; run.write(copy) happens in the thread

One write is under way at a time and memory holds one copy: who submits faster than the disk writes waits for it. An
error of the writer is raised by the next `submit`, by `wait`, or at the end of the block, whichever is first.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from landscape.store.host_copy import HostCopy
from landscape.store.tree_codec import Tree


class BackgroundWriter:
    """Calls `write(copy of what was submitted)` in a thread, one after the other, in order."""

    def __init__(self, write: Callable[[Tree], Any]) -> None:
        self._write = write
        self._copy = HostCopy()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint writer")
        self._under_way: Future[Any] | None = None

    def submit(self, contents: Tree) -> None:
        """Copy `contents`, a tree, and have it written; first wait for the write before, and raise what it raised."""
        self.wait()
        self._under_way = self._thread.submit(self._write, self._copy(contents))

    def wait(self) -> None:
        """Return when everything submitted is written, or raise what the writing raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"and the last checkpoint could not be written: {failure}")
        finally:
            self._thread.shutdown()

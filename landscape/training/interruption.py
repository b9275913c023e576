"""Ctrl-C and SIGTERM as a question the training loop asks between steps, so that it can write a checkpoint and leave.

A second signal does what it always did: nobody has to wait for a step that hangs.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: "try again later", what schedulers read as preempted, to be requeued


class Interrupted(RuntimeError):
    """Training was asked to stop; what it had done is in a checkpoint and the same command continues it."""


class Interruption:
    """A context in which the first SIGINT or SIGTERM only sets `requested`.

    Signals reach the main thread alone; elsewhere the context does nothing.
    """

    requested: str | None = None

    def __enter__(self) -> Interruption:
        self._previous: dict[int, object] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

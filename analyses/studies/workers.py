"""One process for each piece of work, a few at a time: none outlives its parent, and one that dies fails its own work only.

Between parent and worker is a pipe. The worker's answer comes through it; and when the parent is gone, however it went, the
kernel closes its end: a thread of the worker that listens there ends the worker. First by SIGTERM, on which a training
writes a checkpoint, and after `GRACE` seconds for good.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

GRACE = 5.0  # seconds a worker without a parent has for its last checkpoint
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Failure:
    """Why a piece of work was not done: the kind of its error, or `killed`, and what it said."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def in_processes(
    work: Callable[..., object], tasks: Mapping[Key, tuple[Any, ...]], *, at_once: int
) -> Generator[tuple[Key, Failure | None], None, None]:
    """Call `work(*task)` for each of `tasks`, each in a process of its own; yields each key when it is done, with what failed.

    Left early, by an error or Ctrl-C, it asks the workers to stop (SIGTERM) and waits for them.
    """
    # spawn: a forked child would inherit torch's threads in an unknown state
    context = multiprocessing.get_context("spawn")
    waiting = list(tasks.items())
    running: dict[int, tuple[Key, Any, Connection]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                key, task = waiting.pop(0)
                ours, theirs = context.Pipe()
                process = context.Process(target=_worker, args=(theirs, work, task))
                process.start()
                theirs.close()
                running[process.sentinel] = key, process, ours
            for sentinel in wait(list(running)):
                key, process, ours = running.pop(sentinel)  # type: ignore[arg-type]
                yield key, _outcome(process, ours)
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, ours in running.values():
            process.join()
            ours.close()


def _outcome(process: Any, ours: Connection) -> Failure | None:
    process.join()
    with ours:
        try:
            return ours.recv() if ours.poll() else _killed(process.exitcode)
        except EOFError:
            return _killed(process.exitcode)


def _killed(code: int) -> Failure:
    if code < 0:
        return Failure(
            "killed", f"its process was ended by {signal.Signals(-code).name}; the same command continues it"
        )
    return Failure("killed", f"its process ended with exit code {code} and without an answer")


def _worker(pipe: Connection, work: Callable[..., object], task: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)  # the terminal's Ctrl-C is the parent's to answer, which then sends one SIGTERM
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    try:
        work(*task)
    except Exception as error:
        pipe.send(Failure(type(error).__name__, str(error)))
    else:
        pipe.send(None)


def _end_with_parent(pipe: Connection) -> None:
    try:
        pipe.recv()  # nothing ever comes
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

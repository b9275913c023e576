"""Long-lived workers: each takes one piece of work after the other; none outlives its parent; one that dies fails its own.

Between parent and worker is a pipe. Work and answers go through it; and when the parent is gone, however it went, the
kernel closes its end: a thread of the worker that listens there ends the worker. First by SIGTERM, on which a training
writes a checkpoint, and after `GRACE` seconds for good. A worker is kept while there is work, since importing torch
takes seconds; one that dies fails only what it had in hand, and another takes its place.

Answers may be longer than a pipe holds: the parent waits for answers, not for the end of the process that sends one.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

GRACE = 5.0  # seconds a worker without a parent has for its last checkpoint
PATIENCE = 60.0  # seconds it has where the parent has asked it to stop and waits
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Failure:
    """Why a piece of work was not done: the kind of its error, or `killed`, and what it said."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class _Worker:
    """A process and our end of the pipe to it."""

    def __init__(self, context: Any, work: Callable[..., object]) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work))
        self.process.start()
        theirs.close()

    def give(self, task: tuple[Any, ...]) -> bool:
        """Hand it its next piece of work; False where it has died since its last answer."""
        try:
            self.pipe.send(task)
        except OSError:
            self.leave()
            return False
        return True

    def answer(self) -> tuple[Failure | None, bool]:
        """What came of its work, and whether it lives on."""
        try:
            return self.pipe.recv(), True
        except (EOFError, OSError):
            self.leave()
            return _killed(self.process.exitcode), False

    def leave(self) -> None:
        """Wait until it is gone: at the end of the pipe it goes, at once where it has no work."""
        self.pipe.close()
        self.process.join()


def in_processes(
    work: Callable[..., object], tasks: Mapping[Key, tuple[Any, ...]], *, at_once: int
) -> Generator[tuple[Key, Failure | None], None, None]:
    """Call `work(*task)` for each of `tasks` in at most `at_once` processes; yields each key when done, with what failed.

    Left early, by an error or Ctrl-C, it asks the workers to stop (SIGTERM) and waits for them.
    """
    # spawn: a forked child would inherit torch's threads in an unknown state
    context = multiprocessing.get_context("spawn")
    waiting = deque(tasks.items())
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[Key, _Worker]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < at_once:
                key, task = waiting.popleft()
                while idle:
                    worker = idle.pop()
                    if worker.give(task):
                        break
                else:  # there is none, or all that were have died since their last answer
                    worker = _Worker(context, work)
                    if not worker.give(task):
                        yield key, _killed(worker.process.exitcode)
                        continue
                busy[worker.pipe] = key, worker
            ready = wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                key, worker = busy.pop(pipe)
                failure, lives = worker.answer()
                if lives:
                    idle.append(worker)
                yield key, failure
    finally:
        working = [worker for _, worker in busy.values()]
        for worker in working:  # one SIGTERM: a training takes the second for an order to drop its checkpoint
            worker.process.terminate()
        for worker in working:
            worker.pipe.poll(PATIENCE)  # its answer, or its end
        for worker in [*idle, *working]:
            worker.leave()


def _killed(code: int) -> Failure:
    if code < 0:
        return Failure(
            "killed", f"its process was ended by {signal.Signals(-code).name}; the same command continues it"
        )
    return Failure("killed", f"its process ended with exit code {code} and without an answer")


def _serve(pipe: Connection, work: Callable[..., object]) -> None:
    os.setpgid(0, 0)  # the terminal's Ctrl-C is the parent's to answer, which then sends one SIGTERM
    tasks: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(pipe, tasks, busy), daemon=True).start()
    while (task := tasks.get()) is not None:
        try:
            work(*task)
        except Exception as error:
            answer: Failure | None = Failure(type(error).__name__, str(error))
        else:
            answer = None
        busy.clear()  # before the answer, after which the parent may close the pipe
        try:
            pipe.send(answer)
        except OSError:  # nobody is left to be told
            return


def _listen(pipe: Connection, tasks: queue.SimpleQueue[tuple[Any, ...] | None], busy: threading.Event) -> None:
    """Take work from the pipe; at its end leave, and where there is work in hand the parent has died: end the process."""
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            break
        busy.set()
        tasks.put(task)
    tasks.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)  # a daemon's: it ends with the process
    os._exit(1)

"""One process for each piece of work, at the price of a fork; none outlives its parent, and one that dies fails its own.

A server process imports what all work needs once (`PRELOADED`), computes nothing, starts no thread and no accelerator,
and forks for each piece of work (`multiprocessing`'s forkserver). So a piece begins from the same clean state, whatever
came before it, and a kill costs that piece alone; a server that is killed is started again with the next.

Between parent and worker is a pipe. The answer goes through it; and when the parent is gone, however it went, the kernel
closes its end: a thread of the worker that listens there ends the worker. First by SIGTERM, on which a training writes a
checkpoint, and after `GRACE` seconds for good. The server goes with the last process that could ask it for work.

Answers may be longer than a pipe holds: the parent waits for answers, not for the end of the process that sends one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
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


def serve(*preloaded: str) -> None:
    """Start the server, which imports these modules meanwhile; with the first piece of work it starts by itself.

    It keeps the modules of the first call in a process.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preloaded))
    forkserver.ensure_running()


class _Worker:
    """A process and our end of the pipe to it."""

    def __init__(self, work: Callable[..., object], task: Sequence[Any]) -> None:
        # not fork: a child would inherit torch's threads in an unknown state; not spawn: it imports torch, for seconds
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        patience = time.monotonic() + PATIENCE
        while True:
            try:
                self.process = context.Process(target=_work, args=(theirs, work, task))
                self.process.start()
                break
            except (EOFError, ConnectionError):  # the server is dying; only once it is gone another one is started
                if time.monotonic() > patience:
                    raise
                time.sleep(0.05)
        theirs.close()

    def answer(self) -> Failure | None:
        """What came of its work; it is gone then."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return _killed(self.process.exitcode)
        finally:
            self.leave()

    def leave(self) -> None:
        """Wait until it is gone: at the end of the pipe it goes."""
        self.pipe.close()
        self.process.join()


def in_processes(
    work: Callable[..., object],
    tasks: Mapping[Key, tuple[Any, ...]],
    *,
    at_once: int,
    after: Mapping[Key, Key] | None = None,
) -> Generator[tuple[Key, Failure | None], None, None]:
    """Call `work(*task)` for each of `tasks`, each in a process of its own, at most `at_once` at a time.

    Yields each key when done, with what failed. `after` names the task that must have been done before: if it failed, what
    comes after it is not begun and not yielded; once it is done, what comes after it is next.

    Left early, by an error or Ctrl-C, it asks the workers to stop (SIGTERM) and waits for them.
    """
    after = {key: before for key, before in (after or {}).items() if before in tasks}
    waiting = deque(key for key in tasks if key not in after)
    busy: dict[Connection, tuple[Key, _Worker]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < at_once:
                key = waiting.popleft()
                worker = _Worker(work, tasks[key])
                busy[worker.pipe] = key, worker
            ready = wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                key, worker = busy.pop(pipe)
                failure = worker.answer()
                if failure is None:
                    waiting.extendleft(reversed([later for later, before in after.items() if before == key]))
                yield key, failure
    finally:
        working = [worker for _, worker in busy.values()]
        for worker in working:  # one SIGTERM: a training takes the second for an order to drop its checkpoint
            worker.process.terminate()
        for worker in working:
            worker.pipe.poll(PATIENCE)  # its answer, or its end
        for worker in working:
            worker.leave()


def _killed(code: int | None) -> Failure:
    if code is not None and code < 0:
        return Failure(
            "killed", f"its process was ended by {signal.Signals(-code).name}; the same command continues it"
        )
    return Failure("killed", f"its process ended with exit code {code} and without an answer")


def _work(pipe: Connection, work: Callable[..., object], task: Sequence[Any]) -> None:
    os.setpgid(0, 0)  # the terminal's Ctrl-C is the parent's to answer, which then sends one SIGTERM
    done = threading.Event()
    threading.Thread(target=_listen, args=(pipe, done), daemon=True).start()
    try:
        work(*task)
    except Exception as error:
        answer: Failure | None = Failure(type(error).__name__, str(error))
    else:
        answer = None
    done.set()  # before the answer, after which the parent may close the pipe
    try:
        pipe.send(answer)
    except OSError:  # nobody is left to be told
        return


def _listen(pipe: Connection, done: threading.Event) -> None:
    """Wait for the end of the pipe, at which the parent has gone; end the process where it is still at work."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()  # nothing ever comes
    if not done.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)  # a daemon's: it ends with the process
    os._exit(1)

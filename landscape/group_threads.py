r"""The threads of a gloo group, and why a process waits for them before it ends.

A thread of gloo holds the tensors of the collective it runs and lets go of them after whoever waited for it has been
woken. Is it the last to hold a tensor that Python has seen, it needs the interpreter's lock for that; from an
interpreter that has begun to end it gets none, and the process dies: "terminate called without an active exception",
exit code −6. `destroy_process_group` joins the threads of a group that nobody holds any more, but whatever
DistributedDataParallel or `fully_shard` has touched holds its group until the process ends.
"""

from __future__ import annotations

import time
from pathlib import Path

_NAME = "pt_gloo"  # what torch calls them; the system knows a thread by at most 15 characters
_PAUSE = 0.02  # seconds; above the 5 ms for which Python's threads hold the lock against each other


def wait_until_idle(timeout: float = 60.0) -> None:
    """Return when no thread of gloo holds anything: at once where there are none, or after `timeout` seconds."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():  # no such view of threads outside Linux: give them time
        time.sleep(10 * _PAUSE)
        return
    end = time.monotonic() + timeout
    before: dict[str, str] | None = None
    while (now := _activity(tasks)) and time.monotonic() < end:
        # asleep at both looks and never awake between them: it waits for work, not for the lock (that is asked for
        # every 5 ms) and not for a core
        if now == before and all(line.startswith("S") for line in now.values()):
            return
        before = now
        time.sleep(_PAUSE)  # without the lock


def _activity(tasks: Path) -> dict[str, str]:
    """For each thread of gloo its state and how often it has been switched."""
    found = {}
    for task in tasks.iterdir():
        try:
            lines = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        except OSError:  # it has ended since
            continue
        if lines["Name"].startswith(_NAME):
            switches = (lines.get("voluntary_ctxt_switches", ""), lines.get("nonvoluntary_ctxt_switches", ""))
            found[task.name] = " ".join((lines["State"], *switches))
    return found

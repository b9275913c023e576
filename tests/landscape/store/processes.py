"""Real processes for the price of a fork: torch and the toolkit are imported once, each child ends as any process does.

    python processes.py FILE      FILE: JSON list of {"commands": [[argument, …], …], "limit": bytes or null}

Prints one JSON line a child: the exit code of each command, what it said on stderr, and the exit code of the process
(negative: the signal that killed it). A child inside pytest would not do: what crashes is the end of the interpreter.
"""

import gc
import json
import os
import resource
import sys
import time

import analyses.saved  # noqa: F401
from landscape import data
from landscape.__main__ import main
from landscape.experiment import Experiment

MEMORY = 1 << 30  # bytes that a child may map beyond what is mapped already
SECONDS = 60


def child(job: dict, errors: int) -> int:
    """Become a process of its own and run the commands in it."""
    os.dup2(errors, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, -1))
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS, -1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if job.get("limit") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], -1))
    for command in job["commands"]:
        code = main(command)
        sys.stderr.flush()
        os.write(errors, f"\0{code}\0".encode())
    return 7  # an ordinary end, and no code of the toolkit's


def run(job: dict) -> dict:
    """What became of the job."""
    reader, writer = os.pipe()  # no file: the limit is for the files of the toolkit
    pid = os.fork()
    if not pid:
        sys.exit(child(job, writer))
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as errors:
        parts = errors.read().split("\0")
    _, status = os.waitpid(pid, 0)
    return {"said": parts[:-1:2], "codes": list(map(int, parts[1::2])), "end": os.waitstatus_to_exitcode(status)}


if __name__ == "__main__":
    with open(sys.argv[1]) as listed:
        jobs = json.load(listed)
    data.load(Experiment(data="digits"))  # imports scikit-learn
    gc.collect()
    gc.freeze()  # what was there before the fork takes a second to collect at the end of each child
    for one in jobs:
        print(json.dumps(run(one)), flush=True)

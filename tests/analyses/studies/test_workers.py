"""Workers: one that is killed fails its own work alone, and none outlives a parent that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, time
def work(how):
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise": raise ValueError("wrong")
    if how == "sleep":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        time.sleep(600)
if __name__ == "__main__":
    from analyses.studies import workers
    for key, failure in workers.in_processes(work, {how: (how,) for how in sys.argv[1:]}, at_once=3):
        print(key, failure, flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, str(tmp_path / "program.py")]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.mark.slow
def test_a_killed_worker_fails_its_own_work_alone(program: list[str]) -> None:
    done = subprocess.run(
        [*program, "kill", "raise", "ok"], env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert told["ok"] == "None"
    assert told["raise"] == "ValueError: wrong"
    assert told["kill"].startswith("killed: its process was ended by SIGKILL")


@pytest.mark.slow
def test_no_worker_outlives_a_killed_parent(program: list[str]) -> None:
    """Not even one that ignores SIGTERM."""
    with subprocess.Popen([*program, "sleep"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())  # type: ignore[union-attr]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert parent.stdout.read() == ""  # type: ignore[union-attr]  # the end of the pipe: nobody holds it any more
    end = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()

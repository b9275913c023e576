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
import workers
workers.GRACE = .3
def work(how):
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "leave": os._exit(3)
    if how == "raise": raise ValueError("wrong")
    if how == "long": raise ValueError("x" * 1_000_000)  # a pipe holds 65,536
    if how.startswith("who"): raise ValueError(os.getpid())
    if how == "server": os.kill(os.getppid(), signal.SIGKILL)
    if how == "late":
        time.sleep(1)
        raise ValueError("still here")
    if how == "preloaded":
        import json
        loaded = "torch" in sys.modules
        import torch
        threads = len(os.listdir("/proc/self/task"))
        raise ValueError(json.dumps([str(loaded), str(torch.accelerator.is_available() and torch.cuda.is_initialized()), threads]))
    if how == "ok":
        while "train" in sys.argv and not os.path.exists("ready"): time.sleep(.01)
    if how == "sleep":
        print(os.getpid(), flush=True)
        time.sleep(600)
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
        time.sleep(600)
    if how == "train":
        with Interruption() as interruption:
            open("ready", "w").close()
            while not interruption.requested: time.sleep(.01)
            time.sleep(.5)
            print("checkpoint written", flush=True)
        raise ValueError("interrupted")
if "train" in sys.argv: from landscape.training.interruption import Interruption
if __name__ == "__main__" and "after" in sys.argv:
    tasks = {how: (how,) for how in ("ok", "raise", "who1", "who0", "who2")}
    after = {"who0": "ok", "who1": "raise", "who2": "nothing"}
    for key, _ in workers.in_processes(work, tasks, at_once=1, after=after): print(key, flush=True)
elif __name__ == "__main__" and "preloaded" in sys.argv:
    import json
    workers.serve("torch", "torch._dynamo", "scipy.stats")
    ((_, failure),) = workers.in_processes(work, {1: ("preloaded",)}, at_once=1)
    for name, value in zip(("torch", "accelerator", "threads"), json.loads(failure.message)): print(name, value)
elif __name__ == "__main__":
    done = workers.in_processes(work, {how: (how,) for how in sys.argv[2:]}, at_once=int(sys.argv[1]))
    for key, failure in done:
        print(key, failure, flush=True)
        if key == "ok" and "train" in sys.argv: break
    done.close()
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, str(tmp_path / "program.py")]


ROOT = Path(__file__).parents[3]
# the module by itself: its package imports torch, for seconds in every process, and workers need none of it
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'analyses' / 'studies'}{os.pathsep}{ROOT}"}


def told(program: list[str], *arguments: str) -> dict[str, str]:
    done = subprocess.run(
        [*program, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=True
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.processes
def test_each_piece_of_work_has_a_process_and_one_that_dies_fails_its_own_alone(program: list[str]) -> None:
    """Each kind of end, between answers that name the process: every piece begins from the same clean state."""
    found = told(program, "1", "who0", "raise", "long", "who1", "kill", "who2", "leave", "who3", "ok")
    assert list(found) == ["who0", "raise", "long", "who1", "kill", "who2", "leave", "who3", "ok"]
    assert found["ok"] == "None"
    assert found["raise"] == "ValueError: wrong"
    assert found["long"] == "ValueError: " + "x" * 1_000_000
    assert found["kill"].startswith("killed: its process was ended by SIGKILL")
    assert found["leave"].startswith("killed: its process ended with exit code 3")
    assert len({found[f"who{i}"] for i in range(4)}) == 4


@pytest.mark.processes
def test_a_server_that_dies_between_two_pieces_of_work_costs_none(program: list[str]) -> None:
    """Nor what is at work then, whose parent it was: it still answers."""
    found = told(program, "2", "server", "late", "who0", "ok")
    assert found["server"] == "None"
    assert found["late"] == "ValueError: still here"
    assert found["who0"].startswith("ValueError: ")
    assert found["ok"] == "None"


@pytest.mark.processes
def test_what_comes_after_work_that_failed_is_not_begun(program: list[str]) -> None:
    """`who0` after `ok`, next of all; `who1` after `raise`, never; `who2` after what is no work of this call."""
    done = subprocess.run(
        [*program, "after"], env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=True
    ).stdout.splitlines()
    assert [line.split()[0] for line in done] == ["ok", "who0", "raise", "who2"]


@pytest.mark.processes
def test_what_is_loaded_before_is_there_and_starts_no_thread_and_no_accelerator(program: list[str]) -> None:
    """Where NumPy's library keeps threads, it ends them in the child."""
    found = told(program, "preloaded")
    assert found["torch"] == "True"
    assert found["accelerator"] == "False"
    assert found["threads"] == "2"  # the one at work, and the one that listens for the parent


@pytest.mark.processes
@pytest.mark.parametrize("how", ["sleep", "deaf", "idle"])
def test_no_worker_outlives_a_killed_parent(program: list[str], how: str) -> None:
    """Not one at work, not one that ignores SIGTERM, not one whose work is done while another works; nor the server."""
    tasks = ["2", "who", "sleep"] if how == "idle" else ["1", how]
    with subprocess.Popen([*program, *tasks], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as parent:
        out = parent.stdout
        assert out is not None
        numbers = [int(out.readline().split()[-1]) for _ in tasks[1:]]
        numbers += [int(n) for n in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert out.read() == ""  # the end of the pipe: nobody holds it any more
    end = time.monotonic() + 60
    while any(Path(f"/proc/{number}").exists() for number in numbers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [number for number in numbers if Path(f"/proc/{number}").exists()]


@pytest.mark.processes
def test_left_early_a_worker_gets_one_signal_and_the_time_for_its_checkpoint(program: list[str]) -> None:
    """A second SIGTERM ends a training without one (`landscape.training.interruption`)."""
    done = subprocess.run(
        [*program, "2", "train", "ok"],
        env=ENVIRONMENT,
        cwd=Path(program[1]).parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert done.stdout.splitlines() == ["ok None", "checkpoint written"]

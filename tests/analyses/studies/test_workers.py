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
if __name__ == "__main__":
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
def test_one_worker_does_everything_until_it_dies_which_fails_its_own_work_alone(program: list[str]) -> None:
    """Each kind of end, between answers that name the process: a new one only where the last has died."""
    found = told(program, "1", "who0", "raise", "long", "who1", "kill", "who2", "leave", "who3", "ok")
    assert list(found) == ["who0", "raise", "long", "who1", "kill", "who2", "leave", "who3", "ok"]
    assert found["ok"] == "None"
    assert found["raise"] == "ValueError: wrong"
    assert found["long"] == "ValueError: " + "x" * 1_000_000
    assert found["kill"].startswith("killed: its process was ended by SIGKILL")
    assert found["leave"].startswith("killed: its process ended with exit code 3")
    first, second, third, fourth = (found[f"who{i}"] for i in range(4))
    assert first == second
    assert len({second, third, fourth}) == 3


def test_a_worker_that_dies_between_two_pieces_of_work_costs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes: one that refuses its next task is replaced, and the task is done by the next."""
    from analyses.studies import workers

    made = []

    class Told:
        def __init__(self, context: object, work: object) -> None:
            self.pipe, self.tasks = object(), []
            made.append(self)

        def give(self, task: tuple[str]) -> bool:
            if self.tasks and self is made[0]:
                return False
            self.tasks.append(task)
            return True

        def answer(self) -> tuple[None, bool]:
            return None, True

        def leave(self) -> None: ...

    monkeypatch.setattr(workers, "_Worker", Told)
    monkeypatch.setattr(workers, "wait", list)
    assert dict(workers.in_processes(print, {i: (i,) for i in range(4)}, at_once=1)) == dict.fromkeys(range(4))
    assert [worker.tasks for worker in made] == [[(0,)], [(1,), (2,), (3,)]]


@pytest.mark.processes
@pytest.mark.parametrize("how", ["sleep", "deaf", "idle"])
def test_no_worker_outlives_a_killed_parent(program: list[str], how: str) -> None:
    """Not one at work, not one that ignores SIGTERM, not one that waits for work while another works."""
    tasks = ["2", "who", "sleep"] if how == "idle" else ["1", how]
    with subprocess.Popen([*program, *tasks], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as parent:
        out = parent.stdout
        assert out is not None
        numbers = [int(out.readline().split()[-1]) for _ in tasks[1:]]
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

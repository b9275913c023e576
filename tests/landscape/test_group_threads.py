"""A process that was in a gloo group ends with the exit code it chose, however late the group's threads let go."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

# Both ranks in one process. The thread that runs rank 0's all-reduce is the last to hold its tensor, and letting go of it
# takes half a second of Python; the group is held until the end, as DistributedDataParallel and FSDP2 hold theirs.
PROGRAM = textwrap.dedent(
    """
    import datetime, sys, threading, time
    import torch
    from torch import distributed
    from landscape import group_threads

    store, pair = distributed.HashStore(), {}

    def join(rank):
        pair[rank] = distributed.ProcessGroupGloo(store, rank, 2, datetime.timedelta(seconds=30))

    class Late:
        def __del__(self):
            end = time.perf_counter() + 0.5
            while time.perf_counter() < end:
                pass
            print("let go", threading.current_thread() is threading.main_thread(), flush=True)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    tensor = torch.ones(3)
    tensor.late = Late()
    pair[0].allreduce([tensor])
    del tensor
    pair[1].allreduce([torch.ones(3)]).wait()
    sys.held = pair
    group_threads.wait_until_idle()
    sys.exit(int(sys.argv[1]))
    """
)


@pytest.mark.processes
@pytest.mark.parametrize("code", [0, 3])
def test_a_process_waits_for_the_groups_threads_before_it_ends(code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (code, "let go False"), done.stderr


COMMANDS = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from landscape import distributed, group_threads
    from landscape.__main__ import main

    def threads():
        return group_threads._activity(Path("/proc/self/task"))

    during = []
    leave = distributed.leave
    distributed.leave = lambda: (during.append(len(threads())), leave())
    train = ["train", "run", "--epochs", "1", "--data_options.train_examples", "16", "--model_options.widths", "[3]"]
    for command in (train, ["analyze", "run", "top_eigenvalues", "--k", "1"], ["analyze", "run", "psf", "--batches", "1"]):
        assert main(command) == 0
        left = threads()
        time.sleep(0.2)
        awake = [line for line in left.values() if not line.startswith("S")]
        told = f"{during.pop() > 0} {left == threads()} {awake}"
        Path(f"{command[0]}-{command[2]}-{os.environ['RANK']}.told").write_text(told)
    """
)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are read from /proc")
def test_after_a_command_under_torchrun_no_thread_of_gloo_is_at_work(tmp_path: Path) -> None:
    """None can abort the process while it ends: each that is left sleeps and is not woken; that there were some is seen."""
    (tmp_path / "commands.py").write_text(COMMANDS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "commands.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert [path.read_text() for path in tmp_path.glob("*.told")] == 6 * ["True True []"]

"""A process that was in a gloo group ends with the exit code it chose, however late the group's threads let go."""

import subprocess
import sys
import textwrap

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


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_waits_for_the_groups_threads_before_it_ends(code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (code, "let go False"), done.stderr

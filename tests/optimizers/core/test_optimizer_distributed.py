"""Two gloo processes under torchrun: replicas that stay equal, and norms that run over shards."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("case", ["replicas", "per_replica", "sharded"])
def test_two_processes(case):
    script = Path(__file__).with_name("optimizer_replicas.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count(f"{case} done") == 2

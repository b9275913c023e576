"""SIGKILL a training that checkpoints all the time, at random moments, and let the same command continue, over and over.

    python tests/soak/kill_and_resume.py [--kills 200] [--optimizer msam] [--seed 0]

After every kill each checkpoint under its name must be readable in full and none that was there may be gone or changed.
In the end weights, momentum, buffers, generators and metrics must equal those of a run that nobody disturbed, bit for
bit. The command runs in forks of this process, which has imported everything: what is killed is training, not imports.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: forks must not inherit a pool of threads

import numpy as np
import torch

from landscape.__main__ import main as landscape
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.recipe import Recipe
from landscape.runs.checkpoint_file import read_checkpoint
from landscape.runs.run import Run
from landscape.training.training import train  # noqa: F401  (imported before the forks)

CHECKPOINTS_PER_KILL = 2
LONGEST_WAIT = 120  # seconds for one checkpoint to appear before we call it a hang


def experiment(kills, optimizer):
    """Everything that draws random numbers or keeps state is on: dropout, BatchNorm, label noise, probes, a schedule."""
    return Experiment(
        optimizer=optimizer,
        data_options={"train_examples": 60},
        model_options={"widths": [8], "dropout": 0.3, "batch_norm": True},
        label_noise=0.4,
        batch_size=32,
        epochs=CHECKPOINTS_PER_KILL * kills + 4,
    )


def start(folder, recipe):
    """The command in a fork; its process id."""
    child = os.fork()
    if child:
        return child
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(os.open(str(folder) + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os._exit(landscape(["train", str(folder), "-c", str(recipe)]))
    return None


def names(folder):
    """File names of finished checkpoints and of half-written ones."""
    found = os.listdir(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    return {n for n in found if n.startswith("step-")}, {n for n in found if n.startswith(".tmp-")}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kill_when(folder, child, count, delay):
    """SIGKILL `child` a `delay` after there are `count` checkpoints; how it ended."""
    deadline = time.monotonic() + LONGEST_WAIT
    while len(names(folder)[0]) < count:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            raise TimeoutError(f"no checkpoint for {LONGEST_WAIT} s")
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def soak(kills, optimizer, seed, directory):
    """Kill and resume; counts of what was seen. AssertionError names what was lost or differs."""
    moments = random.Random(seed)
    chosen = experiment(kills, optimizer)
    recipe = directory / "experiment.toml"
    recipe.write_text(Recipe(chosen, Execution(checkpoint_every=1, probe_every=3)).to_toml())
    folder = directory / "disturbed"
    known = {}
    killed = half_written = 0
    for i in range(kills):
        child = start(folder, recipe)
        if i < 3:  # while the run is still being set up
            code = kill_when(folder, child, 0, moments.uniform(0, 0.5))
        else:
            code = kill_when(folder, child, CHECKPOINTS_PER_KILL * (i - 2), moments.uniform(0, 0.06))
        assert code == -signal.SIGKILL, (
            f"the command ended by itself with code {code}: {(directory / 'disturbed.log').read_text()[-2000:]}"
        )
        killed += 1
        finished, half = names(folder)
        half_written += bool(half)
        assert known.keys() <= finished, f"lost after kill {i}: {sorted(known.keys() - finished)}"
        for name in sorted(finished - known.keys()):
            read_checkpoint(folder / "checkpoints" / name).verify()
            known[name] = digest(folder / "checkpoints" / name)
    assert os.waitstatus_to_exitcode(os.waitpid(start(folder, recipe), 0)[1]) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(start(directory / "whole", recipe), 0)[1]) == 0
    for name, expected in known.items():
        assert digest(folder / "checkpoints" / name) == expected, f"{name} changed after it was finished"
    assert not names(folder)[1], "half-written files were left behind"
    compare(Run.open(directory / "whole"), Run.open(folder))
    return {"kills": killed, "kills during a write": half_written, "checkpoints": len(names(folder)[0])}


def equal(a, b):
    """Whether two state trees agree in every bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def compare(whole, disturbed):
    """Bit equality of the last checkpoints and of all metrics but the clock."""
    assert whole.finished
    assert disturbed.finished
    a, b = whole.checkpoint("last"), disturbed.checkpoint("last")
    assert torch.equal(a.theta, b.theta), "the weights differ"
    assert (a.momentum is None and b.momentum is None) or torch.equal(a.momentum, b.momentum), "the momentum differs"
    for name, tensor in a.buffers.items():
        assert torch.equal(tensor, b.buffers[name]), f"buffer {name} differs"
    for group in ("optimizer", "scheduler", "rng", "data"):
        assert equal(a.state(group), b.state(group)), f"the state {group} differs"
    assert whole.metrics.sizes == disturbed.metrics.sizes, "metrics were lost"
    for name, series in whole.metrics.items():
        if name != "seconds":
            assert np.array_equal(series, disturbed.metrics[name], equal_nan=True), f"metric {name} differs"


def main():
    """Run the soak, print its counts, exit 1 with the reason if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--optimizer", default="msam")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        try:
            counts = soak(options.kills, options.optimizer, options.seed, Path(directory))
        except AssertionError as lost:
            print(f"FAILED: {lost}")
            sys.exit(1)
    print(json.dumps({**counts, "bit-equal": True, "seconds": round(time.monotonic() - begin, 1)}))


if __name__ == "__main__":
    main()

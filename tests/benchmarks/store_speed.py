"""Writing and reading 36.5 M float32 in 155 tensors: this store beside plain h5py, safetensors and torch.save.

    python tests/benchmarks/store_speed.py [--repeats 15] [--folder .]

All writes end with fsync. Repeats are interleaved; medians, and the median of the ratios to plain contiguous h5py of the
same repeat. Writes results/store_speed.md beside this script.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from landscape.experiment import Experiment
from landscape.runs.checkpoint_file import read_checkpoint, write_checkpoint
from landscape.runs.run import Run
from landscape.store import sealed_file
from landscape.store.background_writer import BackgroundWriter


def tensors(count=155, values=36_500_000):
    """Named random tensors of sizes as uneven as a WideResNet's: a third of them are vectors."""
    torch.manual_seed(0)
    vectors = count // 3
    wide = values // (count - vectors)
    return {
        f"blocks.{i}.weight": torch.randn(512) if i % 3 == 0 and i < 3 * vectors else torch.randn(wide // 512, 512)
        for i in range(count)
    }


def fsync(path):
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)


def write_h5py(path, weights):
    with h5py.File(path, "w") as file:
        for name, tensor in weights.items():
            file.create_dataset(f"parameters/{name}", data=tensor.numpy())
    fsync(path)


def read_h5py(path):
    with h5py.File(path, "r") as file:
        return {name: torch.from_numpy(data[...]) for name, data in file["parameters"].items()}


def write_torch(path, weights):
    torch.save(weights, path)
    fsync(path)


def write_safetensors(path, weights):
    from safetensors.torch import save_file

    save_file(weights, path)
    fsync(path)


def read_safetensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def write_store(path, weights):
    write_checkpoint(
        path, step=1, parameters=weights, momentum=None, buffers={}, state={}, metrics={}, attributes={"seed": 0}
    )


def write_store_unsealed(path, weights):
    sealed, sealed_file.seal = sealed_file.seal, fsync
    try:
        write_store(path, weights)
    finally:
        sealed_file.seal = sealed


WRITERS = {
    "plain h5py": write_h5py,
    "store, no digest": write_store_unsealed,
    "store": write_store,
    "safetensors": write_safetensors,
    "torch.save": write_torch,
}
READERS = {
    "plain h5py": read_h5py,
    "store": lambda path: read_checkpoint(path).parameters,
    "safetensors": read_safetensors,
    "torch.save": lambda path: torch.load(path, weights_only=True),
}


def stalls(folder, weights, repeats):
    """Seconds that a submission to an idle background writer takes, and those of the bare copy, interleaved."""
    buffers = {name: torch.empty_like(tensor) for name, tensor in weights.items()}
    contents = {"step": 1, "parameters": weights, "momentum": None, "buffers": {}, "state": {}, "metrics": {}}
    times = {"memory copy": [], "training stalls for": []}

    def copy():
        for name, tensor in weights.items():
            buffers[name].copy_(tensor)

    with BackgroundWriter(lambda c: write_checkpoint(Path(folder) / "background.h5", **c)) as writer:
        for repeat in range(repeats + 1):
            measured = timed(copy), timed(writer.submit, {**contents, "attributes": {}})
            writer.wait()
            if repeat:
                for name, seconds in zip(times, measured, strict=True):
                    times[name].append(seconds)
    return times


def thousand_checkpoints(folder):
    """Seconds to open a run of 1,000 checkpoints, twelve metrics in each, and read all metrics; and of reading again."""
    run = Run.create(Path(folder) / "run", Experiment())
    every, some = ("loss", "learning_rate", "gradient_norm"), ("psf", "cosine", "rise")
    evaluated = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "gradient_evaluations")
    model = torch.nn.Linear(10, 10)
    for step in range(12, 12_001, 12):
        steps, last = np.arange(step - 12, step), np.array([step])
        metrics = dict.fromkeys(every, (steps, steps * 1.0)) | dict.fromkeys(some, (steps[::6], steps[::6] * 1.0))
        metrics |= dict.fromkeys(evaluated, (last, last * 1.0))
        run.save(step, model=model, momentum=None, state={}, metrics=metrics)
    start = time.perf_counter()
    opened = Run.open(run.path)
    assert opened.metrics.sizes["step"] == 12_000
    first = time.perf_counter() - start
    return first, timed(lambda: opened.metrics)


def timed(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def rows(what, times, reference):
    """One row of the table a name: milliseconds, and how many times the reference."""
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, times[reference], strict=True))
        yield f"| {what}{name} | {statistics.median(seconds) * 1e3:.1f} | {ratio:.2f} |"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--folder", default=".")
    options = parser.parse_args()
    weights = tensors()
    size = sum(t.numel() for t in weights.values())
    writes, reads = ({name: [] for name in table} for table in (WRITERS, READERS))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = {name: Path(folder) / f"{name}.file" for name in WRITERS}
        for repeat in range(options.repeats + 1):  # the first warms up
            for name, write in WRITERS.items():
                paths[name].unlink(missing_ok=True)
                seconds = timed(write, paths[name], weights)
                writes[name] += [seconds] if repeat else []
        for repeat in range(options.repeats + 1):
            for name, read in READERS.items():
                seconds = timed(read, paths[name.split(",")[0]])
                reads[name] += [seconds] if repeat else []
        background = stalls(folder, weights, options.repeats)
        first, again = thousand_checkpoints(folder)
    lines = [
        f"{size / 1e6:.1f} M float32 values in {len(weights)} tensors; {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}, h5py {h5py.__version__}; "
        f"medians of {options.repeats} interleaved repeats.",
        "",
        "| what | milliseconds | times plain h5py, or the copy |",
        "| --- | --- | --- |",
        *rows("write and fsync, ", writes, "plain h5py"),
        *rows("read from the page cache, ", reads, "plain h5py"),
        *rows("background checkpoint, ", background, "memory copy"),
        "",
        f"Metrics of a run with 1,000 checkpoints: {first:.2f} s from nothing, {again:.2f} s again.",
    ]
    (Path(__file__).parent / "results" / "store_speed.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""What a process ends with: damage and full disks are one line and exit code 2, never a crash while Python shuts down."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.saved import analyze
from landscape import data, models
from landscape.experiment import Experiment
from landscape.runs.archive import export_archive
from landscape.runs.retention import Retention
from landscape.runs.run import Run

EXPERIMENT = Experiment(data="digits", model="mlp", model_options={"widths": [8]}, epochs=1, seed=3)


def processes(folder: Path, jobs: list[dict]) -> list[dict]:
    """The outcome of each job, run as a process of its own."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(Path(__file__).parent / "processes.py"), str(folder / "jobs.json")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def lines(said: str) -> list[str]:
    """What was said, without the hint that follows an error."""
    return [line for line in said.splitlines() if line and not line.startswith("(LANDSCAPE_TRACEBACK")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with an analysis, metrics of dropped checkpoints, and its archive."""
    folder = tmp_path_factory.mktemp("whole")
    run = Run.create(folder / "run", EXPERIMENT)
    network = models.build(EXPERIMENT, data.load(EXPERIMENT))
    for step in (0, 5, 10, 15):
        steps = np.arange(max(0, step - 5), step)
        momentum = [torch.zeros_like(p) for p in network.parameters()]
        run.save(step, model=network, momentum=momentum, state={}, metrics={"loss": (steps, steps * 1.0)})
    run.thin(Retention(last=2))
    analyze(run, "psf", batches=1, examples=64)
    export_archive(run, folder / "run.h5")
    return folder


DAMAGE = {
    "seal": lambda d: d[:40] + bytes([d[40] ^ 1]) + d[41:],
    "head": lambda d: d[:700] + bytes([d[700] ^ 1]) + d[701:],
    "tail": lambda d: d[:-1] + bytes([d[-1] ^ 1]),
    "truncated": lambda d: d[: len(d) // 2],
    "empty": lambda d: b"",
    "garbage": lambda d: np.random.default_rng(0).bytes(3000),
    "unsealed": lambda d: d[512:],
}
COMMANDS = {
    "checkpoints/step-00000015.h5": [
        ["verify", "RUN"],
        ["info", "RUN"],
        ["info", "FILE"],
        ["export", "RUN", "OUT.h5"],
        ["export", "RUN", "OUT.pt"],
        ["analyze", "RUN", "psf", "--batches", "1"],
        ["train", "RUN", "-c", "RUN/experiment.toml"],
    ],
    "analyses/psf": [
        ["verify", "RUN"],
        ["info", "FILE"],
        ["analyze", "RUN", "psf", "--batches", "1", "--examples", "64"],
    ],
    "metrics/to-00000005.h5": [["verify", "RUN"], ["info", "RUN"], ["export", "RUN", "OUT.h5"]],
    "../run.h5": [["import", "FILE", "OUT"]],
}


def words(command: list[str], **places: Path) -> list[str]:
    """The command with the places that its capital letters stand for."""
    for name, place in places.items():
        command = [word.replace(name, str(place)) for word in command]
    return command


@pytest.mark.processes
def test_a_damaged_file_is_one_line_and_exit_code_2_for_every_command(whole, tmp_path):
    commands, asked = [], []
    for kind, damage in DAMAGE.items():
        for number, (name, all_of_it) in enumerate(COMMANDS.items()):
            folder = tmp_path / f"{kind}{number}"
            shutil.copytree(whole, folder)
            (file,) = (folder / "run").glob(f"{name}*")
            file.write_bytes(damage(file.read_bytes()))
            commands += [words(c, RUN=folder / "run", FILE=file, OUT=folder / "out") for c in all_of_it]
            asked += [(kind, c[0], folder, file) for c in all_of_it]
    (outcome,) = processes(tmp_path, [{"commands": commands}])  # one process: whatever would crash its end does
    assert outcome["end"] == 7
    for (kind, command, folder, file), code, text in zip(asked, outcome["codes"], outcome["said"], strict=True):
        if kind == "unsealed" and command == "analyze" and "analyses" in file.parts:
            assert code == 0  # an analysis of an older release: computed again, with a word
            assert "saved by an older release, without a seal; it is computed again" in text
            continue
        assert code == 2, (kind, command, text)
        (line,) = lines(text)
        assert line.startswith(f"landscape {command}: error: ")
        assert command == "verify" or file.name in line
        assert {path.name for path in folder.iterdir()} == {"run", "run.h5"}
        assert not list(folder.rglob(".tmp-*"))


@pytest.mark.processes
def test_a_full_disk_is_one_line_and_exit_code_2_at_every_size(whole, tmp_path):
    """What RLIMIT_FSIZE refuses is refused in the middle of any file, by any of our writers, in a thread or not."""
    size = (whole / "run/checkpoints/step-00000015.h5").stat().st_size
    limits = [600, size // 2, size - 1]
    jobs, folders = [], [tmp_path / str(limit) for limit in limits]
    for folder, limit in zip(folders, limits, strict=True):
        shutil.copytree(whole, folder)
        commands = [
            ["train", "OUT", "-c", "RUN/experiment.toml"],
            ["export", "RUN", "OUT.h5"],
            ["import", "RUN.h5", "OUT2"],
        ]
        jobs.append({"commands": [words(c, RUN=folder / "run", OUT=folder / "out") for c in commands], "limit": limit})
    for folder, outcome in zip(folders, processes(tmp_path, jobs), strict=True):
        assert outcome["end"] == 7
        assert outcome["codes"] == [2] * 3, outcome
        for text in outcome["said"]:
            (line,) = lines(text)
            assert "File too large" in line
        assert not list(folder.rglob(".tmp-*"))
        assert not (folder / "out.h5").exists()
        run = Run.open(folder / "run")
        assert run.steps == (0, 10, 15)
        for step in run.steps:
            run.checkpoint(step).verify()


HELD = """
import sys
from landscape.runs.checkpoint_file import read_checkpoint
from landscape.store.sealed_reader import SealedFile
path, stop = sys.argv[1], int(sys.argv[2])
read, calls = SealedFile.readinto, 0
def readinto(self, buffer):
    global calls
    calls += 1
    if calls == stop:
        raise KeyboardInterrupt
    return read(self, buffer)
SealedFile.readinto = readinto
try:
    read_checkpoint(path).verify()
except BaseException as error:
    kept = [error]  # as a notebook keeps it
    kept.append(kept)
"""


@pytest.mark.processes
@pytest.mark.parametrize("stop", [0, 1])
def test_an_exception_that_somebody_keeps_does_not_crash_the_end(whole, tmp_path, stop):
    file = tmp_path / "c.h5"
    damage = DAMAGE["head"] if stop == 0 else bytes
    file.write_bytes(damage((whole / "run/checkpoints/step-00000015.h5").read_bytes()))
    subprocess.run([sys.executable, "-c", HELD, str(file), str(stop)], check=True, timeout=100)

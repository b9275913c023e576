"""The examples under a plain loop, Lightning's Trainer and Hugging Face's, each in a process of its own."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from expectations import one_gradient, simplest, two_gradients

import optimizers

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def run(*command, directory):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)], capture_output=True, text=True, timeout=300, check=False,
        cwd=directory, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.processes
@pytest.mark.parametrize("method", [simplest(two_gradients), simplest(one_gradient)])
def test_plain_loop(method, tmp_path):
    output = run(ROOT / "notebooks/examples/plain_loop.py", method, directory=tmp_path)
    assert f"{method}: " in output
    assert float(output.split(": ")[1].split("%")[0]) > 80
    assert f"{optimizers.describe(method).gradients(140)[0]} gradients" in output


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "package"), [("lightning", "lightning"), ("huggingface", "transformers")])
def test_trainers(trainer, package, tmp_path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; the extra {trainer!r} brings it")
    checks = run(HERE / "without_torchvision.py", HERE / "trainer_checks.py", trainer, tmp_path, directory=tmp_path)
    assert "checked" in checks


TRAINERS = {"plain loop": "torch", "Lightning": "lightning", "accelerate": "accelerate", "HF Trainer": "transformers"}
TABLE = ROOT / "tests/benchmarks/results/trainers.md"


def cells(text):
    """The rows of the table: trainer and method, and a distance or a refusal for each setting."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {(trainer, method): dict(zip(rows[0][2:], found, strict=True)) for trainer, method, *found in rows[2:]}


def test_the_table_of_trainers_promises_no_distance_above_1e_6():
    table = cells(TABLE.read_text())
    (tried,) = (
        ast.literal_eval(line.value)
        for line in ast.parse((ROOT / "tests/benchmarks/trainers.py").read_text()).body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "METHODS"
    )
    assert len(tried) >= 4
    assert {optimizers.describe(method).closure_free for method in tried} == {True, False}
    assert table.keys() == {(trainer, method) for trainer in TRAINERS for method in tried}
    for row in table.values():
        assert list(row) == ["accumulation", "clipping", "both", "bf16", "resume", "DDP"]
        assert all(float(cell) <= 1e-6 for cell in row.values())


@pytest.mark.processes
@pytest.mark.slow
def test_the_table_of_trainers_is_true(tmp_path):
    """Each trainer with each method, in every setting, against a loop over large batches; made anew."""
    found = [trainer for trainer, package in TRAINERS.items() if importlib.util.find_spec(package)]
    table, promised = (
        cells(run(ROOT / "tests/benchmarks/trainers.py", *found, directory=tmp_path)),
        cells(TABLE.read_text()),
    )
    assert len(table) == 4 * len(found)
    for place, row in table.items():
        assert row.keys() == promised[place].keys()
        assert all(float(cell) <= 1e-6 for cell in row.values()), (place, row)

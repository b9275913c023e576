"""The examples under a plain loop, Lightning's Trainer and Hugging Face's, each in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run(*command, directory):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)], capture_output=True, text=True, timeout=300, check=False,
        cwd=directory, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("method", ["sam", "msam"])
def test_plain_loop(method, tmp_path):
    output = run(ROOT / "notebooks/examples/plain_loop.py", method, directory=tmp_path)
    assert f"{method}: " in output
    assert float(output.split(": ")[1].split("%")[0]) > 80
    assert f"{280 if method == 'sam' else 140} gradients" in output


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "package"), [("lightning", "lightning"), ("huggingface", "transformers")])
def test_trainers(trainer, package, tmp_path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; the extra {trainer!r} brings it")
    checks = run(HERE / "without_torchvision.py", HERE / "trainer_checks.py", trainer, tmp_path, directory=tmp_path)
    assert "checked" in checks

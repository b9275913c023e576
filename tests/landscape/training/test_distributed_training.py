"""Two processes under torchrun compute what one computes, write one run, and resume it bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr

from analyses.saved import analyze, read
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.recipe import Recipe
from landscape.runs.run import Run
from landscape.training.training import train

EXPERIMENT = Experiment(
    data_options={"train_examples": 150}, model_options={"widths": [12]}, batch_size=64, epochs=3,
    optimizer="sam", rho=0.1, precision="float64",
)  # fmt: skip
EACH = Execution(checkpoint_every=1, probe_every=4)

SCRIPT = """
import sys
from pathlib import Path
from landscape import recipe
from landscape.training.training import Training, train
cut = int(sys.argv[3])
take = Training.take_step
def step(self, index):
    if self.step == cut:
        raise SystemExit(3)  # every process dies at once, as when a node fails
    take(self, index)
if cut:
    Training.take_step = step
experiment, execution = recipe.loads(Path(sys.argv[1]).read_text())
train(experiment, sys.argv[2], execution=execution, progress=False)
"""


def torchrun(experiment: Experiment, directory: Path, *, processes: int = 2, cut: int = 0) -> int:
    folder = directory.parent
    (folder / "script.py").write_text(SCRIPT)
    (folder / "asked.toml").write_text(Recipe(experiment, EACH).to_toml())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(folder / "script.py"), str(folder / "asked.toml"), str(directory), str(cut)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert cut or done.returncode == 0, done.stderr
    return done.returncode


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_compute_what_one_computes(tmp_path: Path) -> None:
    """Batches of 64, 64 and 22, so that shares are uneven against the whole in nothing but their order of summation."""
    torchrun(EXPERIMENT, tmp_path / "two")
    one, two = train(EXPERIMENT, tmp_path / "one", execution=EACH, progress=False), Run.open(tmp_path / "two")
    a, b = one.checkpoint("last"), two.checkpoint("last")
    torch.testing.assert_close(a.theta, b.theta, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(a.momentum, b.momentum, rtol=1e-10, atol=1e-12)
    for name in ("loss", "gradient_norm", "l2_psf", "test_accuracy", "train_loss"):
        torch.testing.assert_close(
            torch.tensor(one.metrics[name].values), torch.tensor(two.metrics[name].values), rtol=1e-6, atol=1e-9
        )
    assert len(b.state("rng")) == 2


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(tmp_path: Path) -> None:
    """With dropout, whose random numbers are each process's own."""
    experiment = EXPERIMENT.replace(model_options={"widths": [12], "dropout": 0.3, "batch_norm": True})
    torchrun(experiment, tmp_path / "whole")
    assert torchrun(experiment, tmp_path / "cut", cut=5) != 0
    assert Run.open(tmp_path / "cut").steps[-1] == 3
    torchrun(experiment, tmp_path / "cut")
    whole, cut = (Run.open(tmp_path / name).checkpoint("last") for name in ("whole", "cut"))
    assert torch.equal(whole.theta, cut.theta)
    assert all(torch.equal(whole.buffers[name], cut.buffers[name]) for name in whole.buffers)


@pytest.mark.processes
@pytest.mark.slow
def test_another_number_of_processes_says_what_is_lost(tmp_path: Path) -> None:
    assert torchrun(EXPERIMENT, tmp_path / "run", cut=5) != 0
    with pytest.warns(UserWarning, match="written by 2 processes and is continued by 1.*no longer bit-equal"):
        run = train(EXPERIMENT, tmp_path / "run", execution=EACH, progress=False)
    assert run.finished


@pytest.mark.processes
@pytest.mark.slow
def test_analyses_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """Each on its share of the examples; the same products, the same numbers to rounding, one file."""

    train(EXPERIMENT, tmp_path / "run", execution=EACH, progress=False)
    asked = {"top_eigenvalues": ["--k", "2"], "trace": ["--max_products", "20"], "psf": ["--batches", "2"]}
    expected = {
        "top_eigenvalues": analyze(tmp_path / "run", "top_eigenvalues", k=2),
        "trace": analyze(tmp_path / "run", "trace", max_products=20),
        "psf": analyze(tmp_path / "run", "psf", batches=2),
    }
    for name, options in asked.items():
        Path(expected[name].attrs["path"]).unlink()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        subprocess.run(
            [*command, "-m", "landscape", "analyze", str(tmp_path / "run"), name, *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            timeout=300,
        )
        found = read(Path(expected[name].attrs["path"]), name)
        assert found.attrs["objective_processes"] == (1 if name == "psf" else 2)
        assert found.attrs["objective_examples"] == expected[name].attrs["objective_examples"]
        for variable in expected[name].data_vars:
            if expected[name][variable].dtype.kind == "f" and "residual" not in str(variable):
                xr.testing.assert_allclose(found[variable], expected[name][variable], rtol=1e-5, atol=1e-7)

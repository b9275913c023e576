"""A run of version 1, whose experiment.toml and checkpoints say device and micro-batches within the experiment, goes on.

It was written in November 2026 by `landscape train run` of the release before `Execution`, and is never written again.
"""

import shutil
from pathlib import Path

import pytest
import torch

from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.archive import export_archive, import_archive
from landscape.runs.checkpoint import Checkpoint
from landscape.runs.run import Run
from landscape.runs.verify import verify
from landscape.training.training import train

GOLDEN = Path(__file__).parent / "golden" / "flat-run"
EXPERIMENT = Experiment(
    data_options={"train_examples": 40}, model_options={"widths": [2], "batch_norm": True}, optimizer="vsam", epochs=4,
    batch_size=20, warmup_epochs=0.5, seed=7, precision="float64", lr=0.1,
)  # fmt: skip
EXECUTION = Execution(micro_batch_size=10, checkpoint_every=2, probe_every=3, probe_rho_sam=0.1, evaluation_examples=30)
LAST = Checkpoint.open(GOLDEN / "step-00000008.h5")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """It, interrupted at step 4 of 8."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(GOLDEN / "experiment.toml", folder)
    shutil.copy(GOLDEN / "step-00000004.h5", folder / "checkpoints")
    return Run.open(folder)


def test_it_is_read_as_an_experiment_and_an_execution(run: Run) -> None:
    assert "device" in (run.path / "experiment.toml").read_text()
    for of in (run, run.checkpoint(4), LAST):
        assert of.experiment == EXPERIMENT
    for of in (run.checkpoint(4), LAST):
        assert of.execution == EXECUTION
    assert not [finding for finding in verify(run) if finding.problem]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("execution", [None, EXECUTION], ids=["as it was", "said again"])
def test_it_goes_on_as_it_would_have(run: Run, tmp_path: Path, execution: Execution | None, archived: bool) -> None:
    if archived:
        export_archive(run, tmp_path / "run.h5")
        run = import_archive(tmp_path / "run.h5", tmp_path / "again")
    continued = train(EXPERIMENT, run.path, execution=execution, progress=False)
    last = continued.checkpoint()
    assert continued.steps == (4, 8)
    torch.testing.assert_close(last.theta, LAST.theta, rtol=1e-9, atol=1e-12)  # of another machine
    assert (last.experiment, last.execution) == (EXPERIMENT, EXECUTION)
    assert last.metrics.keys() == LAST.metrics.keys()
    assert "departures" not in last.attributes
    assert not [finding for finding in verify(continued) if finding.problem]

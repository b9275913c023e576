"""Whatever the optimizer, a run that lost its last checkpoints repeats them to the bit."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import optimizers
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.recipe import Recipe
from landscape.runs.run import Run
from landscape.training.training import train

EXPERIMENT = Experiment(
    data_options={"train_examples": 100},
    model_options={"widths": [8], "dropout": 0.3, "batch_norm": True},
    label_noise=0.4,
    batch_size=20,
    epochs=4,
)
EACH = Execution(checkpoint_every=1)


def same(whole, resumed):
    a, b = whole.checkpoint("last"), resumed.checkpoint("last")
    assert torch.equal(a.theta, b.theta)
    assert a.momentum is None or torch.equal(a.momentum, b.momentum)
    assert all(torch.equal(tensor, b.buffers[name]) for name, tensor in a.buffers.items())
    for name in set(whole.metrics) - {"seconds"}:
        np.testing.assert_array_equal(whole.metrics[name], resumed.metrics[name], err_msg=name)


@pytest.mark.parametrize("base", [{"base": "nag"}, {"base": "adamw", "lr": 1e-3}], ids=["nag", "adamw"])
@pytest.mark.parametrize("optimizer", optimizers.available())
def test_every_optimizer_resumes_bit_for_bit(tmp_path, optimizer, base):
    whole = train(EXPERIMENT.replace(optimizer=optimizer, **base), tmp_path / "whole", execution=EACH, progress=False)
    shutil.copytree(whole.path, tmp_path / "cut")
    cut = Run.open(tmp_path / "cut")
    for step in cut.steps[2:]:
        cut.checkpoint_path(step).unlink()
    assert not cut.finished
    same(whole, train(whole.experiment, cut.path, execution=EACH, progress=False))


FULL_DISK = """
import resource, signal, sys
from landscape.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
sys.exit(main(["train", sys.argv[2], "-c", sys.argv[3]]))
"""


@pytest.mark.processes
def test_training_on_a_full_disk_says_so_and_continues_when_there_is_room(tmp_path):
    experiment = EXPERIMENT.replace(optimizer="msam")
    whole = train(experiment, tmp_path / "whole", execution=EACH, progress=False)
    sizes = [whole.checkpoint_path(step).stat().st_size for step in whole.steps]
    assert sizes[0] < sizes[1]  # the first has no state of the optimizer and no metrics
    (tmp_path / "recipe.toml").write_text(Recipe(experiment, EACH).to_toml())
    command = [sys.executable, "-c", FULL_DISK, str((sizes[0] + sizes[1]) // 2)]
    command += [str(tmp_path / "cut"), str(tmp_path / "recipe.toml")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "step-00000005.h5" in ran.stderr
    assert "File too large" in ran.stderr
    cut = Run.open(tmp_path / "cut")
    assert cut.steps == (0,)
    same(whole, train(experiment, cut.path, execution=EACH, progress=False))

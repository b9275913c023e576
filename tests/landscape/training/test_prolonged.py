"""More epochs for a run that is there: to the bit the longer run, or refused with what depends on their number."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.saved import analyze
from landscape.__main__ import main
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.runs.verify import verify
from landscape.training.training import train

SHORT = Experiment(
    data_options={"train_examples": 60}, model_options={"widths": [4], "batch_norm": True, "dropout": 0.2},
    batch_size=20, epochs=2, schedule="constant", warmup_epochs=0.5, optimizer="vsam", label_noise=0.2,
)  # fmt: skip
LONG = SHORT.replace(epochs=4)
EACH = Execution(checkpoint_every=1)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(SHORT, tmp_path_factory.mktemp("runs") / "run", execution=EACH, progress=False).path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(LONG, tmp_path_factory.mktemp("runs") / "whole", execution=EACH, progress=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_goes_on_for_more_epochs_as_if_they_had_been_asked_for_at_once(
    tmp_path: Path, short: Path, whole: Run, interrupted: bool
) -> None:
    shutil.copytree(short, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.finished
    if interrupted:
        run.checkpoint_path(6).unlink()
    analyze(run, "psf", step=3, batches=1)
    run = train(LONG, run.path, progress=False)
    assert run.finished
    assert (run.experiment, Run.open(run.path).experiment) == (LONG, LONG)
    assert run.steps == (0, 3, 6, 9, 12)
    made = [run.checkpoint(step).experiment.epochs for step in run.steps]
    assert made == [2, 2, 4 if interrupted else 2, 4, 4]  # each by what was asked for then
    a, b = whole.checkpoint(), run.checkpoint()
    assert torch.equal(a.theta, b.theta)
    assert torch.equal(a.buffers["2.running_mean"], b.buffers["2.running_mean"])
    assert set(whole.metrics) == set(run.metrics)
    for name in set(whole.metrics) - {"seconds"}:
        np.testing.assert_array_equal(whole.metrics[name], run.metrics[name], err_msg=name)
    assert not [finding for finding in verify(run) if finding.problem]
    analyze(run, "psf", step=3, batches=1)  # without a warning
    assert train(LONG, run.path, progress=False).finished


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schedule": "cosine"}, "schedule = 'cosine' ends with the last epoch"),
        ({"optimizer": "aesam"}, "aesam's total_steps is the length of the training"),
        (
            {"optimizer": "sam", "policy": {"name": "long_gradient"}},
            "total_steps of policy 'long_gradient' is the length of the training",
        ),
    ],
    ids=str,
)
def test_what_depends_on_the_number_of_epochs_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], says: str
) -> None:
    experiment = SHORT.replace(epochs=1, **change)
    run = train(experiment, tmp_path / "run", progress=False)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=f"for 1 epochs, which cannot go on to 2: {says}"):
        train(experiment.replace(epochs=2), run.path, progress=False)
    (tmp_path / "recipe.toml").write_text(experiment.to_toml())
    assert main(["train", str(run.path), "-c", str(tmp_path / "recipe.toml"), "--epochs", "2"]) == 2
    assert says in capsys.readouterr().err
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_an_option_that_says_its_length_is_no_obstacle(tmp_path: Path) -> None:
    experiment = SHORT.replace(epochs=1, optimizer="aesam", optimizer_options={"total_steps": 30})
    train(experiment, tmp_path, progress=False)
    assert train(experiment.replace(epochs=2), tmp_path, progress=False).steps == (0, 3, 6)


@pytest.mark.parametrize("change", [{"epochs": 1}, {"epochs": 4, "lr": 0.05}], ids=str)
def test_fewer_epochs_and_anything_besides_are_another_experiment(
    tmp_path: Path, short: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(short, tmp_path / "run")
    with pytest.raises(ValueError, match="holds another experiment"):
        train(SHORT.replace(**change), tmp_path / "run", progress=False)
    assert Run.open(tmp_path / "run").experiment == SHORT


def test_epochs_that_were_asked_for_and_not_yet_trained_are_not_finished(tmp_path: Path, short: Path) -> None:
    """The process died between writing what it was asked and its first checkpoint."""
    shutil.copytree(short, tmp_path / "run")
    (tmp_path / "run" / "experiment.toml").write_text(LONG.to_toml())
    run = Run.open(tmp_path / "run")
    assert not run.finished
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(LONG, run.path, progress=False).steps == (0, 3, 6, 9, 12)


def test_a_negative_seed_is_a_seed(tmp_path: Path) -> None:
    runs = [train(SHORT.replace(seed=seed), tmp_path / str(seed), progress=False) for seed in (-1, 1)]
    assert not torch.equal(runs[0].checkpoint("first").theta, runs[1].checkpoint("first").theta)
    assert runs[0].experiment.seed == -1
    assert main(["train", str(tmp_path / "-1"), "-c", str(tmp_path / "-1" / "experiment.toml"), "--seed", "-1"]) == 0

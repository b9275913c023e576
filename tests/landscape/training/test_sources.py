"""Training on what is no tensor: read by workers or not, resumed in the middle of an epoch, refused with the cure."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import generated_images
import pytest
import torch

from landscape.__main__ import main
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.recipe import Recipe
from landscape.runs.run import Run
from landscape.training.interruption import Interrupted
from landscape.training.training import Training, train

HERE = generated_images.__name__
CROPPED = [{"name": "crop", "padding": 2}, {"name": "flip"}, {"name": "cutout", "size": 3}]
WAVES = Experiment(
    data=f"{HERE}:waves", data_options={"noise": 0.3}, augment=CROPPED, model=f"{HERE}:net", batch_size=32, epochs=2,
    optimizer="sam", rho=0.1,
)  # fmt: skip
EACH, WORKERS = Execution(checkpoint_every=1), Execution(checkpoint_every=1, workers=2)
SOURCES = {
    "generated": WAVES,
    "own source": WAVES.replace(data=f"{HERE}:own_source", data_options={}, augment=[]),
    "resident": WAVES.replace(data=f"{HERE}:tensors", data_options={}),
}


def same(one: Run, other: Run) -> None:
    """To the bit, whatever was measured too."""
    a, b = one.checkpoint("last"), other.checkpoint("last")
    assert torch.equal(a.theta, b.theta)
    assert all(torch.equal(buffer, b.buffers[name]) for name, buffer in a.buffers.items())
    first, second = one.all_series(), other.all_series()
    for name in set(first) - {"seconds"}:
        assert (first[name][1] == second[name][1]).all(), name


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("experiment", SOURCES.values(), ids=SOURCES)
def test_it_resumes_within_an_epoch_and_workers_change_nothing(tmp_path: Path, experiment: Experiment) -> None:
    """Whole without workers; told to stop while two are alive, and resumed with two."""
    whole = train(experiment, tmp_path / "whole", execution=EACH, progress=False)
    take = Training.take_step

    def stopped(training: Training, batch: Any) -> None:
        if training.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        take(training, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "take_step", stopped)
        with pytest.raises(Interrupted):
            train(experiment, tmp_path / "cut", execution=WORKERS, progress=False)
    assert not multiprocessing.active_children()
    assert Run.open(tmp_path / "cut").steps[-1] == 5  # of three an epoch: in the middle of the second
    same(whole, train(experiment, tmp_path / "cut", execution=WORKERS, progress=False))


def test_resident_and_streamed_train_alike(tmp_path: Path) -> None:
    def trained(how: Literal["yes", "no"]) -> Run:
        execution = Execution(checkpoint_every=1, resident=how)
        return train(SOURCES["resident"], tmp_path / how, execution=execution, progress=False)

    same(trained("yes"), trained("no"))


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("name", ["generated", "own source"])
def test_two_processes_with_workers_compute_what_one_computes(tmp_path: Path, name: str) -> None:
    """Without dropout and BatchNorm, which know of shares; in float64, to the order of summation."""
    experiment = SOURCES[name].replace(model=f"{HERE}:plain_net", precision="float64", epochs=1)
    (tmp_path / "asked.toml").write_text(Recipe(experiment, WORKERS).to_toml())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "landscape"]
    asked = ["train", str(tmp_path / "two"), "-c", str(tmp_path / "asked.toml"), "--allow", experiment.data]
    path = os.pathsep.join([str(Path(generated_images.__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *asked, "--allow", experiment.model],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = train(experiment, tmp_path / "one", execution=EACH, progress=False), Run.open(tmp_path / "two")
    assert two.checkpoint("last").attributes["processes"] == 2
    torch.testing.assert_close(one.checkpoint("last").theta, two.checkpoint("last").theta, rtol=1e-10, atol=1e-12)


@pytest.mark.processes
def test_a_worker_that_dies_is_one_error(tmp_path: Path) -> None:
    experiment = WAVES.replace(data=f"{HERE}:dying", data_options={})
    with pytest.raises(ChildProcessError, match="a worker process that reads data died"):
        train(experiment, tmp_path / "run", execution=WORKERS, progress=False)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": f"{HERE}:failing", "data_options": {}}, "example 37 of train cannot be fetched: KeyError"),
        ({"data": f"{HERE}:endless", "data_options": {}}, "expected tensors .* got Endless.*Write one"),
        ({"data": f"{HERE}:drifting", "data_options": {}}, "the same batch whenever it is asked for"),
        ({"data": f"{HERE}:ragged", "data_options": {}}, "cannot be stacked"),
        ({"data": f"{HERE}:alone", "data_options": {}}, r"expected \(input, target\), got Tensor"),
        ({"augment": [{"name": "crpo"}]}, "unknown augmentation 'crpo'"),
        ({"augment": [{"name": "crop", "padding": 0}]}, "padding: expected"),
    ],
)
def test_what_cannot_be_trained_on_is_said(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        train(WAVES.replace(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_is_fetched_anew_in_every_epoch_is_not_made_resident(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected auto or no, since train is a map-style data set"):
        train(WAVES, tmp_path / "run", execution=Execution(resident="yes"), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_wrong_augmentation_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", str(tmp_path / "run"), "--augment", '[{"name": "crop", "padding": 0}]']
    assert main(asked) == 2
    assert "padding: expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*asked[:3], '[{"name": "crop", "padding": 1}, {"name": "flip"}]', "--epochs", "1"]) == 0
    assert [table["name"] for table in Run.open(tmp_path / "run").experiment.augment] == ["crop", "flip"]

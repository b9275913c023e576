"""A wrong option does not claim a folder: the first steps are tried before anything is written, and what fails before
its second checkpoint gives its folder back.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from landscape.__main__ import main
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.lock import RunInUse
from landscape.runs.run import Run
from landscape.training.training import Training, train

RIGHT = Experiment(
    data_options={"train_examples": 50}, model_options={"widths": [4]}, epochs=1, batch_size=20, warmup_epochs=0
)
CONVNET: dict[str, Any] = {"model": "convnet"}


class Unstorable(torch.optim.SGD):
    """Keeps in its state what no checkpoint can hold."""

    def step(self, closure: Any = None) -> Any:
        self.state["open file"] = object()
        return super().step(closure)


class Unfinished(nn.Linear):
    """Fails at the first forward pass."""

    def __init__(self, classes: int) -> None:
        super().__init__(64, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("tomorrow")


WRONG: dict[str, dict[str, Any]] = {
    "sam_on without norm layers": {"optimizer": "sam_on"},
    "five-layer channels": CONVNET | {"model_options": {"channels": [2, 2, 2, 2, 2]}},
    "no channels": CONVNET | {"model_options": {"channels": [0]}},
    "input_shape": {"model_options": {"widths": [4], "input_shape": [3, 3]}},
    "too few classes": {"model_options": {"widths": [4], "classes": 3}},
    "LBFGS": {"base": "torch.optim:LBFGS"},
    "SparseAdam": {"base": "torch.optim:SparseAdam"},
    "gsam alpha": {"optimizer": "gsam", "optimizer_options": {"alpha": "x"}},
    "aesam delta": {"optimizer": "aesam", "optimizer_options": {"delta": 5}},
    "random seed": {"optimizer": "random", "optimizer_options": {"seed": ""}},  # fails at the second step
    "late_sam start": {"optimizer": "late_sam", "optimizer_options": {"start": "x"}},
    "23-digit seed": {"seed": 10**22},
    "23-digit seed of a method": {"optimizer": "vsam", "optimizer_options": {"seed": 10**22}},
    "a batch of one under BatchNorm": {"batch_size": 7, "model_options": {"widths": [4], "batch_norm": True}},
    "the batch in parts": {"optimizer": "esam", "execution": Execution(micro_batch_size=5)},
    "None in an option": {"model_options": {"widths": [4], "dropout": None}},
    "a model that fails": {"model": f"{__name__}:Unfinished", "model_options": {}},
    "a state that cannot be stored": {"base": f"{__name__}:Unstorable"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_leaves_no_folder_and_the_corrected_call_works(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "run"
    wrong = dict(WRONG[case])
    execution = wrong.pop("execution", None)
    with pytest.raises(ValueError, match=r"\w{3}") as refusal:
        train(RIGHT.replace(**wrong), folder, execution=execution, progress=False)
    assert not folder.exists(), refusal.value
    assert train(RIGHT, folder, progress=False).finished


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "1" + "0" * 22],
        ["--base", "torch.optim:LBFGS"],
        ["--optimizer", "gsam", "--optimizer_options", '{"alpha": "x"}'],
    ],
    ids=lambda options: options[0],
)
def test_on_the_command_line_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(RIGHT.to_toml())
    command = ["train", str(tmp_path / "run"), "-c", str(tmp_path / "recipe.toml")]
    assert main([*command, *options]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(command) == 0


@pytest.mark.parametrize("optimizer", ["sam", "msam", "vsam", "random"])
def test_the_rehearsal_leaves_no_trace_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """The same bits with and without it, dropout and BatchNorm included."""
    model = {"widths": [4], "batch_norm": True, "dropout": 0.2}
    experiment = RIGHT.replace(optimizer=optimizer, model_options=model)
    execution = Execution(probe_every=2)
    rehearsed = train(experiment, tmp_path / "rehearsed", execution=execution, progress=False)
    monkeypatch.setattr("landscape.training.training.rehearse", lambda make, run: None)
    straight = train(experiment, tmp_path / "straight", execution=execution, progress=False)
    a, b = rehearsed.checkpoint("last"), straight.checkpoint("last")
    assert torch.equal(a.theta, b.theta)
    assert all(torch.equal(tensor, b.buffers[name]) for name, tensor in a.buffers.items())
    assert a.attributes.keys() == b.attributes.keys()
    for name in set(straight.metrics) - {"seconds"}:
        assert rehearsed.metrics[name].equals(straight.metrics[name]), name


@pytest.mark.parametrize("step", [0, 2], ids=["before a step", "before a checkpoint of a step"])
def test_a_run_that_fails_later_gives_its_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    take = Training.take_step

    def fail(self: Training, index: torch.Tensor) -> None:
        if self.step == step:
            raise RuntimeError("no kernel image is available")
        take(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "take_step", fail)
        with pytest.raises(RuntimeError, match="no kernel image"):
            train(RIGHT, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert train(RIGHT.replace(lr=0.01), tmp_path / "run", progress=False).finished


def test_a_run_with_a_checkpoint_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Training.take_step
    experiment = RIGHT.replace(epochs=3)

    def fail(self: Training, index: torch.Tensor) -> None:
        if self.step == 4:
            raise RuntimeError("no kernel image is available")
        take(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "take_step", fail)
        with pytest.raises(RuntimeError, match="no kernel image"):
            train(experiment, tmp_path, execution=Execution(checkpoint_every=1), progress=False)
    assert Run.open(tmp_path).steps == (0, 3)
    assert train(experiment, tmp_path, progress=False).finished


def test_only_what_is_ours_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Training, index: torch.Tensor) -> None:
        (tmp_path / "run" / "notes.txt").write_text("a thesis")
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(Training, "take_step", fail)
    with pytest.raises(RuntimeError, match="no kernel image"):
        train(RIGHT, tmp_path / "run", progress=False)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RIGHT)
    with run.writing(), pytest.raises(RunInUse):
        train(RIGHT, tmp_path, progress=False)
    assert Run.open(tmp_path).experiment == RIGHT

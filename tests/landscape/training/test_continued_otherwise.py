"""A run that is continued under another execution: the same run, and what is no longer bit-equal is said and kept."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.subject_key import contents_key
from landscape.__main__ import main
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.training.departures import departed
from landscape.training.training import Training, train

PLAIN: dict[str, Any] = {"widths": [8]}
EXPERIMENT = Experiment(
    data_options={"train_examples": 120}, model_options=PLAIN, batch_size=40, epochs=4, optimizer="sam",
    precision="float64",
)  # fmt: skip
NORMALISED = EXPERIMENT.replace(model_options=PLAIN | {"batch_norm": True})
BEFORE = Execution(checkpoint_every=1)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Run]:
    """Uninterrupted runs, by whether they have BatchNorm."""
    folder, experiments = tmp_path_factory.mktemp("whole"), {False: EXPERIMENT, True: NORMALISED}
    return {key: train(e, folder / str(key), execution=BEFORE, progress=False) for key, e in experiments.items()}


def cut(whole: Run, folder: Path) -> Run:
    """A copy that has lost what came after its second epoch."""
    shutil.copytree(whole.path, folder)
    for step in whole.steps[3:]:
        (folder / "checkpoints" / f"step-{step:08d}.h5").unlink()
    return Run.open(folder)


SAME = [{"checkpoint_every": 4}, {"probe_every": 2}, {"probe_rho_sam": 0.2}, {"micro_batch_size": 40}, {}]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("change", [*SAME, {"evaluation_examples": 500}], ids=str)
def test_what_decides_nothing_changes_no_bit_and_needs_no_word(
    tmp_path: Path, wholes: dict[bool, Run], change: dict[str, Any]
) -> None:
    whole, execution = wholes[True], BEFORE.replace(**change)
    run = train(NORMALISED, cut(whole, tmp_path / "run").path, execution=execution, progress=False)
    last = run.checkpoint()
    assert torch.equal(whole.checkpoint().theta, last.theta)
    assert torch.equal(whole.checkpoint().buffers["2.running_mean"], last.buffers["2.running_mean"])
    for name in ("loss", "gradient_norm", "train_loss", "test_loss"):
        np.testing.assert_array_equal(whole.metrics[name], run.metrics[name])
    assert "departures" not in last.attributes
    assert (last.execution, run.checkpoint(6).execution) == (execution, BEFORE)
    assert run.steps == ((0, 3, 6, 12) if execution.checkpoint_every == 4 else (0, 3, 6, 9, 12))


OTHERWISE = {
    "micro-batches": (
        False,
        {"micro_batch_size": 16},
        "micro_batch_size = 0 and is continued with 16.*no longer bit-eq",
    ),
    "micro-batches under BatchNorm": (True, {"micro_batch_size": 16}, "BatchNorm normalises over other parts"),
    "evaluation": (
        True,
        {"evaluation_examples": 30},
        "on 120 training examples, what follows is on 30: train_loss",
    ),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_what_is_no_longer_bit_equal_is_said_and_kept(tmp_path: Path, wholes: dict[bool, Run], case: str) -> None:
    normalised, change, says = OTHERWISE[case]
    whole, experiment = wholes[normalised], wholes[normalised].experiment
    run = cut(whole, tmp_path / "run")
    with pytest.warns(UserWarning, match=rf"step-00000006\.h5 was .*{says}") as said:
        train(experiment, run.path, execution=BEFORE.replace(**change), progress=False)
    assert len(said) == 1
    assert "departures" not in run.checkpoint(6).attributes
    for step in (9, 12):
        assert run.checkpoint(step).attributes["departures"] == str(said[0].message)
        assert run.checkpoint(step).execution == BEFORE.replace(**change)
    a, b = whole.checkpoint().theta, run.checkpoint().theta
    if case == "micro-batches":
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert torch.equal(a, b) == (case == "evaluation")
    run.checkpoint_path(12).unlink()  # it goes on once more: nothing new is said, and nothing forgotten
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(experiment, run.path, progress=False)
    assert run.checkpoint(12).attributes["departures"] == str(said[0].message)
    assert run.checkpoint(12).execution == BEFORE.replace(**change)


def test_answers_on_other_statistics_are_other_answers(tmp_path: Path) -> None:
    """The weights are the same to the bit; what BatchNorm is evaluated with is not, so no saved answer serves both."""
    experiment = NORMALISED.replace(epochs=1)
    a, b = (
        train(experiment, tmp_path / str(n), execution=Execution(evaluation_examples=n), progress=False)
        for n in (30, 60)
    )
    assert torch.equal(a.checkpoint().theta, b.checkpoint().theta)
    assert contents_key(a, 3) != contents_key(b, 3)
    again = train(
        experiment, tmp_path / "b", execution=Execution(evaluation_examples=60, probe_every=2), progress=False
    )
    assert contents_key(again, 3) == contents_key(b, 3)


def test_a_run_at_a_glance_says_how_it_was_carried_out(
    tmp_path: Path, wholes: dict[bool, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = cut(wholes[False], tmp_path / "run")
    with pytest.warns(UserWarning, match="no longer bit-equal"):
        train(EXPERIMENT, run.path, execution=Execution(micro_batch_size=16), progress=False)
    assert main(["info", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert f"digest       {EXPERIMENT.digest}" in shown
    assert 'execution    device = "cpu", micro_batch_size = 16' in shown
    assert "departure    step-00000006.h5 was computed with micro_batch_size = 0" in shown


def test_another_kind_of_device_is_said(wholes: dict[bool, Run]) -> None:
    checkpoint = wholes[False].checkpoint()
    training = Training(EXPERIMENT, BEFORE)
    asked = checkpoint, BEFORE.replace(device="cuda"), torch.device("cuda"), training.model, 120
    with pytest.warns(UserWarning, match="computed on cpu and is continued on cuda.*no longer bit-equal"):
        assert "continued on cuda" in departed(*asked)


def test_only_the_experiment_is_the_identity(tmp_path: Path, wholes: dict[bool, Run]) -> None:
    run = cut(wholes[False], tmp_path / "run")
    text = (run.path / "experiment.toml").read_text()
    assert Experiment.from_toml(text) == EXPERIMENT
    assert not {name for name in Execution.names() if f"{name} =" in text}
    with pytest.raises(ValueError, match=r"another experiment \(lr = 0\.1 there, 0\.2 here\)"):
        train(EXPERIMENT.replace(lr=0.2), run.path, execution=BEFORE, progress=False)

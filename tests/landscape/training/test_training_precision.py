"""A run computes and records in the precision it names, and its methods know how long it will be."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import optimizers
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.tf32 import tf32, tf32_in_use
from landscape.training.recorder import Recorder
from landscape.training.training import Training, train

SMALL = Experiment(
    data_options={"train_examples": 60}, model_options={"widths": [6], "batch_norm": True}, epochs=1, batch_size=20
)


def test_every_number_of_a_float64_run_is_float64(tmp_path: Path) -> None:
    """No recorded number fits into float32, but those that are whole, and the losses are those of a float64 objective."""
    run = train(SMALL.replace(precision="float64"), tmp_path, execution=Execution(probe_every=1), progress=False)
    metrics = run.metrics
    names = ["loss", "train_loss", "test_loss", "gradient_norm", "l2_psf", "psf_ratio", "momentum_ascent"]
    for name in names:
        values = metrics[name].values
        values = values[np.isfinite(values) & (values != 0)]
        assert np.all(values != values.astype(np.float32)), name
    for split in ("train", "test"):
        for which in ("first", "last"):
            checkpoint = run.checkpoint(which)
            (steps, values) = run.all_series()[f"{split}_loss"]
            found = values[list(steps).index(checkpoint.step)]
            assert found == pytest.approx(float(checkpoint.objective(split)()), rel=1e-13)


@pytest.mark.parametrize("first", [1.0, torch.tensor(1.0)], ids=["float first", "tensor first"])
def test_a_series_of_tensors_and_floats_keeps_all_of_them(first: Any) -> None:
    recorder = Recorder()
    precise = 0.1 + 1e-12
    values = [first, torch.tensor(precise, dtype=torch.float64), 3.0, torch.tensor(4.0, dtype=torch.bfloat16)]
    for step, value in enumerate(values):
        recorder.record(step, number=value)
    steps, found = recorder.flush()["number"]
    assert steps.tolist() == [0, 1, 2, 3]
    assert found.tolist() == [1.0, precise, 3.0, 4.0]


def test_statistics_are_gathered_through_the_network_that_is_evaluated(tmp_path: Path) -> None:
    """Under bfloat16 autocast: the first BatchNorm sees a product in bfloat16, and so must its running mean."""
    experiment = SMALL.replace(precision="bf16")
    checkpoint = train(experiment, tmp_path, progress=False).checkpoint("last")
    model, inputs = checkpoint.model(), checkpoint.data().train.inputs
    assert isinstance(model, nn.Sequential)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model[1](model[0](inputs))
    exact = model[1](model[0](inputs)).detach()
    assert isinstance(model[2], nn.BatchNorm1d)
    torch.testing.assert_close(model[2].running_mean, rounded.float().mean(0), rtol=0, atol=1e-6)
    assert (rounded.float().mean(0) - exact.mean(0)).abs().max() > 1e-5  # so that the first line decides something


# the length of the training reaches the methods that follow it

LENGTHS: dict[str, Callable[[Any], int]] = {
    "aesam": lambda optimizer: optimizer.policy.total_steps,
    "ssam": lambda optimizer: optimizer.metric.every,
    "vsam": lambda optimizer: optimizer.policy.warmup_left,
}


def test_the_table_below_has_every_method_that_asks_for_a_length() -> None:
    assert {name for name in optimizers.available() if optimizers.describe(name).lengths} == set(LENGTHS)


@pytest.mark.parametrize("method", LENGTHS)
def test_methods_know_the_length_of_the_training(tmp_path: Path, method: str) -> None:
    experiment = SMALL.replace(optimizer=method, epochs=5)  # of three steps
    ((option, epochs),) = optimizers.describe(method).lengths.items()
    expected = 15 if math.isinf(epochs) else round(3 * epochs)
    assert LENGTHS[method](Training(experiment).optimizer) == expected
    explicit = Training(experiment.replace(optimizer_options={option: 4}))
    assert LENGTHS[method](explicit.optimizer) == 4
    run = train(experiment, tmp_path, progress=False)
    assert run.checkpoint("first").attributes[f"optimizer_{option}"] == expected


def test_vsam_leaves_its_warm_up_within_a_short_training(tmp_path: Path) -> None:
    """Three epochs of three steps climb, and later ones need not: fewer than two gradients on each step."""
    run = train(SMALL.replace(optimizer="vsam", epochs=12), tmp_path, progress=False)
    assert float(run.metrics["gradient_evaluations"][-1]) < 2 * 36


@pytest.mark.parametrize("method", LENGTHS)
def test_a_run_of_an_older_release_goes_on_as_it_began(tmp_path: Path, method: str) -> None:
    """Its files say nothing of a length, and its method knew of none."""
    experiment = SMALL.replace(optimizer=method)
    run = train(experiment, tmp_path, progress=False)
    checkpoint = run.checkpoint("last")
    continued = Training(experiment, continued=checkpoint)
    ((option, _),) = optimizers.describe(method).lengths.items()
    assert continued.lengths == {option: {"aesam": 3, "ssam": 3, "vsam": 9}[method]}
    del checkpoint._contents.attributes[f"optimizer_{option}"]  # type: ignore[attr-defined]
    assert Training(experiment, continued=checkpoint).lengths == {}


# TF32


def switches() -> tuple[Any, ...]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("precision", ["float32", "tf32", "float64", "bf16"])
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_tf32_is_what_the_precision_says_and_the_callers_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, before: str, convolutions: bool
) -> None:
    cuda, seen = torch.device("cuda"), set()
    monkeypatch.setattr("landscape.training.training._continue", lambda *_, **__: seen.add(tf32_in_use(cuda)))
    original = switches()
    try:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions
        callers = switches()
        train(SMALL.replace(precision=precision), tmp_path, progress=False)
        assert switches() == callers
    finally:
        torch.set_float32_matmul_precision(original[0])
        torch.backends.cudnn.allow_tf32 = original[1]
    assert seen == {"products and convolutions" if precision == "tf32" else "none"}


def test_tf32_is_in_every_checkpoint_and_every_objective(tmp_path: Path) -> None:
    run = train(SMALL.replace(precision="tf32"), tmp_path, progress=False)
    assert {run.checkpoint(step).attributes["tf32"] for step in run.steps} == {"none"}  # the CPU has no such units
    assert run.checkpoint("last").objective().description["tf32"] == "none"
    with tf32(True):
        assert tf32_in_use(torch.device("cuda")) == "products and convolutions"
    assert Run.open(tmp_path).experiment.dtype == torch.float32

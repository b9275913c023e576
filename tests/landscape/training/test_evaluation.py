"""An evaluation: BatchNorm's statistics gathered once and kept apart, the same from the checkpoint, at a stated cost."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from landscape import models
from landscape.data import Data, Split
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.checkpoint import Checkpoint
from landscape.runs.exchange import export_weights, import_weights
from landscape.runs.run import Run
from landscape.tasks.checks import ROWS
from landscape.training.interruption import Interrupted
from landscape.training.training import Training, train

SMALL = Experiment(
    data_options={"train_examples": 150}, model_options={"widths": [12], "batch_norm": True}, batch_size=50, epochs=3,
    optimizer="msam",
)  # fmt: skip
EACH = Execution(checkpoint_every=1)
CONVNET = SMALL.replace(model="convnet", model_options={}, epochs=2)


class Counter:
    """Examples passed forward, those of training's steps apart."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.stepping, self.inside, self.outside, self.looked = False, 0, 0, 0
        self.then: Callable[[], None] | None = None  # once, after the next forward pass outside
        build, advance = models.build, Training._advance

        def counted(*arguments: Any, **options: Any) -> nn.Module:
            model = build(*arguments, **options)
            model.register_forward_hook(self._count)
            return model

        def stepped(training: Training, index: torch.Tensor) -> None:
            self.stepping = True
            advance(training, index)
            self.stepping = False

        rehearse = Training.rehearse

        def rehearsed(training: Training, run: Run) -> None:
            before = self.outside
            rehearse(training, run)
            self.looked, self.outside = self.looked + self.outside - before, before

        patch.setattr(Training, "rehearse", rehearsed)
        patch.setattr(models, "build", counted)
        patch.setattr(Training, "_advance", stepped)

    @property
    def all(self) -> int:
        return self.inside + self.outside

    def _count(self, model: nn.Module, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> None:
        if self.stepping:
            self.inside += len(inputs[0])
            return
        self.outside += len(inputs[0])
        if self.then is not None:
            then, self.then = self.then, None
            then()


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def fifty_thousandths() -> Data:
    """As CIFAR is to 10,000 shared examples: 500 training examples to 100."""
    inputs, targets = torch.randn(600, 3, generator=torch.Generator().manual_seed(0)), torch.arange(600) % 5
    return Data(Split(inputs[:500], targets[:500]), Split(inputs[500:], targets[500:]), classes=5)


def perceptron(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


LARGE = SMALL.replace(
    data=f"{__name__}:fifty_thousandths", data_options={}, model=f"{__name__}:perceptron", model_options={},
    batch_size=100,
)  # fmt: skip
PART = EACH.replace(evaluation_examples=100)


@pytest.mark.parametrize(
    ("experiment", "execution", "passes"),
    [
        (SMALL.replace(epochs=20, data_options={}, batch_size=500), Execution(checkpoint_every=7), 2.0),
        (LARGE, PART, 0.4),
        (LARGE, EACH.replace(evaluation_examples=500), 2.0),
        (LARGE, EACH.replace(evaluation_examples=10_000), 2.0),
        (SMALL.replace(model_options={"widths": [12]}), EACH, 1.0),
    ],
    ids=["the digits", "as 50,000 images", "exactly all", "more than all", "without BatchNorm"],
)
def test_an_epoch_costs_so_many_passes_of_the_training_data(
    tmp_path: Path, counter: Counter, experiment: Experiment, execution: Execution, passes: float
) -> None:
    """Whatever the cadence of checkpoints; and once more before the first step: 2.1 of the digits in 20 epochs."""
    run = train(experiment.replace(optimizer="plain"), tmp_path, execution=execution, progress=False)
    data = run.checkpoint("last").data()
    evaluations = experiment.epochs + 1
    assert counter.looked == ROWS  # once, before anything is written: does the task fit what the model returns?
    outside = counter.outside - evaluations * len(data.test)
    assert outside == evaluations * round(passes * len(data.train))
    if len(data.train) == 1000:
        assert outside / len(data.train) / experiment.epochs <= 2.1


EVALUATED = {"mlp": SMALL, "convnet": CONVNET, "a part": LARGE, "float64": SMALL.replace(precision="float64")}


@pytest.mark.parametrize("experiment", EVALUATED.values(), ids=EVALUATED)
def test_the_evaluation_in_training_is_that_of_the_checkpoint(tmp_path: Path, experiment: Experiment) -> None:
    """At every step, from stored statistics and from those gathered when asked."""
    execution = PART if experiment is LARGE else EACH
    run = train(experiment, tmp_path / "run", execution=execution, progress=False)
    series = run.all_series()
    for step in run.steps:
        stored = run.checkpoint(step)
        gathered = without_statistics(run, step)
        for checkpoint in (stored, gathered):
            for split, examples in (("train", min(execution.evaluation_examples, 150)), ("test", None)):
                steps, values = series[f"{split}_loss"]
                expected = float(checkpoint.objective(split, examples=examples)())
                assert values[list(steps).index(step)] == pytest.approx(expected, rel=1e-6)
        for name, buffer in gathered.model().named_buffers():
            torch.testing.assert_close(buffer, stored.model().get_buffer(name), rtol=1e-6, atol=1e-6)
            assert torch.equal(buffer, gathered.model().get_buffer(name))


def without_statistics(run: Run, step: int) -> Checkpoint:
    """As a run leaves it that is interrupted there."""
    training = Training(run.experiment, run.checkpoint(step).execution)
    training.restore(run.checkpoint(step))
    training.statistics = None
    return Run.create(run.path.parent / f"{run.path.name}-without", run.experiment).write(training.contents(run))


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    before = {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()}
    yield
    for name, buffer in model.named_buffers():
        assert (id(buffer), True) == (before[name][0], torch.equal(buffer, before[name][1])), name


def test_training_has_its_own_running_averages_and_a_checkpoint_keeps_them(tmp_path: Path) -> None:
    """Those of a plain loop in train mode, which no evaluation has touched."""
    run = Run.create(tmp_path, SMALL)
    training = Training(SMALL)
    with unchanged(training.model):
        training.evaluate()
    for index in training.batches_of_epoch(0):
        training.take_step(index)
    with unchanged(training.model):
        training.evaluate()
        checkpoint = run.write(training.contents(run))
    raw = dict(training.model.named_buffers())
    assert all(torch.equal(buffer, raw[name]) for name, buffer in checkpoint.buffers.items())
    assert checkpoint.statistics is not None
    evaluated = dict(checkpoint.model().named_buffers())
    for name, buffer in evaluated.items():
        assert torch.equal(buffer, checkpoint.statistics.get(name, raw[name]))
    assert not torch.equal(evaluated["2.running_mean"], raw["2.running_mean"])
    again = Training(SMALL)
    again.restore(checkpoint)
    assert all(torch.equal(buffer, raw[name]) for name, buffer in again.model.named_buffers())


# on the way out nothing is computed


def equal(whole: Run, resumed: Run) -> None:
    first, second = whole.checkpoint("last"), resumed.checkpoint("last")
    assert torch.equal(first.theta, second.theta)
    assert all(torch.equal(buffer, second.buffers[name]) for name, buffer in first.buffers.items())
    one, other = first.statistics, second.statistics
    assert one is not None
    assert other is not None
    assert set(one) == set(other)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert set(whole.metrics) == set(resumed.metrics)
    for name in set(whole.metrics) - {"seconds"}:
        np.testing.assert_array_equal(whole.metrics[name], resumed.metrics[name], err_msg=name)


@pytest.mark.parametrize("cadence", [1, 2])
@pytest.mark.parametrize("last", [5, 6, 9], ids=["in the middle", "at the end of an epoch", "at the end"])
def test_after_a_signal_in_a_step_nothing_is_passed_forward(
    tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch, last: int, cadence: int
) -> None:
    """And what the evaluation would have said, a continued run says to the bit, to open readers too."""
    experiment, execution = SMALL, Execution(checkpoint_every=cadence)
    whole = train(experiment, tmp_path / "whole", execution=execution, progress=False)
    take, passed = Training.take_step, -1

    def step(training: Training, index: torch.Tensor) -> None:
        nonlocal passed
        take(training, index)
        if training.step == last:
            os.kill(os.getpid(), signal.SIGTERM)
            passed = counter.all

    with monkeypatch.context() as patch:
        patch.setattr(Training, "take_step", step)
        with pytest.raises(Interrupted, match="the same command continues"):
            train(experiment, tmp_path / "cut", execution=execution, progress=False)
    assert counter.all == passed
    cut = Run.open(tmp_path / "cut")
    assert cut.steps[-1] == last
    assert not cut.finished
    assert cut.checkpoint().statistics is None
    assert cut.metrics["test_loss"].size == 1 + (last - 1) // 3
    continued = train(experiment, tmp_path / "cut", execution=execution, progress=False)
    equal(whole, continued)
    equal(whole, cut)
    assert train(experiment, tmp_path / "cut", execution=EACH, progress=False).finished


@pytest.mark.parametrize("during", [0, 3, 9])
@pytest.mark.parametrize("model", [SMALL.model_options, {"widths": [12]}], ids=["BatchNorm", "none"])
def test_a_signal_in_an_evaluation_ends_it(
    tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch, during: int, model: dict[str, Any]
) -> None:
    experiment = SMALL.replace(model_options=model)
    whole = train(experiment, tmp_path / "whole", execution=EACH, progress=False)
    evaluate, passed = Training.evaluate, -1

    def evaluated(training: Training, *arguments: Any) -> None:
        if training.step == during:
            counter.then = lambda: os.kill(os.getpid(), signal.SIGTERM)
            nonlocal passed
            passed = counter.all + 150  # the batch it came in
        evaluate(training, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "evaluate", evaluated)
        with pytest.raises(Interrupted, match="the same command continues"):
            train(experiment, tmp_path / "cut", execution=EACH, progress=False)
    assert counter.all == passed
    assert Run.open(tmp_path / "cut").steps[-1] == during
    equal(whole, train(experiment, tmp_path / "cut", execution=EACH, progress=False))


# files


def test_a_file_without_statistics_means_what_version_1_meant(tmp_path: Path) -> None:
    """Its buffers are to be evaluated with as they are; exported and imported weights are of that kind too."""
    run = train(SMALL, tmp_path / "run", execution=EACH, progress=False)
    checkpoint = run.checkpoint()
    contents = Training(SMALL)
    contents.restore(checkpoint)
    old = contents.contents(run)
    del old["state"]["evaluation"], old["state"]["training"]["due"]
    of_version_1 = Run.create(tmp_path / "old", SMALL).write(old)
    assert of_version_1.statistics == {}
    for model in (of_version_1.model(), imported(of_version_1, tmp_path / "a")):
        assert all(torch.equal(buffer, checkpoint.buffers[name]) for name, buffer in model.named_buffers())
    for name, buffer in imported(checkpoint, tmp_path / "b").named_buffers():
        assert torch.equal(buffer, checkpoint.model().get_buffer(name))


def imported(checkpoint: Checkpoint, folder: Path) -> nn.Module:
    folder.mkdir()
    export_weights(checkpoint, folder / "w.pt")
    return import_weights(folder / "w.pt", folder / "run", SMALL).checkpoint().model()


def test_an_older_release_refuses_what_it_would_misunderstand(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path, execution=EACH, progress=False)
    with h5py.File(run.checkpoint_path(9)) as file:
        assert file.attrs["format_version"] == 2
        assert set(file["evaluation/statistics"]) == {"2.running_mean", "2.running_var"}


def test_metrics_say_over_how_many_examples_they_are(tmp_path: Path) -> None:
    run = train(SMALL, tmp_path, execution=PART, progress=False)
    assert run.metrics.train_loss.attrs == {"examples": 100}
    assert run.metrics.train_accuracy.attrs == {"examples": 100}
    assert run.metrics.test_loss.attrs == {}

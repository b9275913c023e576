"""Training: resumed equals uninterrupted bit for bit, every step is recorded, and nothing changes silently."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape import data, models
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.seeding import generator, isolated
from landscape.training.interruption import Interrupted
from landscape.training.training import NonFiniteLoss, Training, train

SMALL = Experiment(data_options={"train_examples": 150}, model_options={"widths": [12]}, batch_size=64, epochs=4)
EACH = Execution(checkpoint_every=1)
RANDOM = {"widths": [12], "dropout": 0.3, "batch_norm": True}


def equal(a: Run, b: Run) -> None:
    """The last checkpoints agree in every bit that training decides."""
    first, second = a.checkpoint("last"), b.checkpoint("last")
    assert torch.equal(first.theta, second.theta)
    assert all(torch.equal(first.buffers[name], second.buffers[name]) for name in first.buffers)
    if first.momentum is not None:
        assert torch.equal(first.momentum, second.momentum)
    assert set(a.metrics) == set(b.metrics)
    for name in set(a.metrics) - {"seconds"}:
        np.testing.assert_array_equal(a.metrics[name], b.metrics[name], err_msg=name)


class Stop(BaseException):
    """Stands for a power cut: nothing gets to clean up."""


@pytest.mark.parametrize("optimizer", ["plain", "sam", "msam"])
@pytest.mark.parametrize("options", [{"base": "nag"}, {"base": "adamw", "lr": 1e-3}], ids=["nag", "adamw"])
def test_resumed_run_equals_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, options: dict[str, object]
) -> None:
    """With dropout, BatchNorm, label noise, probes and a cosine schedule, cut in the middle of the third epoch."""
    experiment = SMALL.replace(optimizer=optimizer, model_options=RANDOM, label_noise=0.4, **options)
    execution = EACH.replace(probe_every=2)
    whole = train(experiment, tmp_path / "whole", execution=execution, progress=False)
    take = Training.run_epoch

    def cut(self: Training, interruption: object) -> None:
        if self.step >= 2 * self.steps_per_epoch:
            raise Stop
        take(self, interruption)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", cut)
        with pytest.raises(Stop):
            train(experiment, tmp_path / "cut", execution=execution, progress=False)
    assert not Run.open(tmp_path / "cut").finished
    equal(whole, train(experiment, tmp_path / "cut", progress=False))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_in_the_middle_of_an_epoch(tmp_path: Path, number: signal.Signals) -> None:
    experiment, execution = SMALL.replace(optimizer="sam", model_options=RANDOM), EACH.replace(probe_every=3)
    whole = train(experiment, tmp_path / "whole", execution=execution, progress=False)
    before = signal.getsignal(number)
    take, calls = Training.take_step, 0

    def step_with_signal(self: Training, index: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            os.kill(os.getpid(), number)
        take(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "take_step", step_with_signal)
        with pytest.raises(Interrupted, match="the same command continues"):
            train(experiment, tmp_path / "cut", execution=execution, progress=False)
    assert signal.getsignal(number) == before
    cut = Run.open(tmp_path / "cut")
    assert cut.steps[-1] % 3  # three steps an epoch: it is in the middle of one
    equal(whole, train(experiment, tmp_path / "cut", execution=execution, progress=False))


def test_every_step_is_recorded(tmp_path: Path) -> None:
    run = train(SMALL.replace(optimizer="sam"), tmp_path, execution=EACH.replace(probe_every=5), progress=False)
    metrics = run.metrics
    for name in ("loss", "gradient_norm", "learning_rate"):
        assert metrics[name].size == 12
        assert np.isfinite(metrics[name]).all()
    for name in ("l2_psf", "psf_ratio", "momentum_cosine_next_batch", "momentum_ascent"):
        assert metrics[name].size == 3
    assert metrics["test_accuracy"].size == 5  # before training and after each epoch
    assert float(metrics["gradient_evaluations"][-1]) == 24
    assert float(metrics["test_accuracy"][-1]) > float(metrics["test_accuracy"][0])


def test_gradients_are_counted_by_method(tmp_path: Path) -> None:
    for optimizer, cost in {"plain": 12, "sam": 24, "msam": 12}.items():
        run = train(SMALL.replace(optimizer=optimizer), tmp_path / optimizer, execution=EACH, progress=False)
        assert float(run.metrics["gradient_evaluations"][-1]) == cost


def test_probes_change_nothing(tmp_path: Path) -> None:
    experiment = SMALL.replace(optimizer="msam", model_options=RANDOM)
    without = train(experiment, tmp_path / "without", execution=EACH, progress=False).checkpoint("last")
    probed = train(experiment, tmp_path / "with", execution=EACH.replace(probe_every=1), progress=False).checkpoint(
        "last"
    )
    assert torch.equal(without.theta, probed.theta)
    assert all(torch.equal(without.buffers[name], probed.buffers[name]) for name in without.buffers)


def test_the_caller_keeps_its_random_numbers(tmp_path: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(SMALL.replace(epochs=1), tmp_path, execution=EACH, progress=False)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_finished_run_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(SMALL, tmp_path, execution=EACH, progress=False)
    monkeypatch.setattr(Training, "__init__", lambda *_: pytest.fail("trained again"))
    assert train(SMALL, tmp_path, execution=EACH, progress=False).finished


def test_another_experiment_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    first = train(SMALL, tmp_path, execution=EACH, progress=False)
    theta = first.checkpoint("last").theta
    with pytest.raises(ValueError, match=r"lr = 0\.1 there, 0\.2 here"):
        train(SMALL.replace(lr=0.2), tmp_path, execution=EACH, progress=False)
    assert torch.equal(Run.open(tmp_path).checkpoint("last").theta, theta)


def test_a_diverged_run_says_where_and_keeps_what_it_had(tmp_path: Path) -> None:
    experiment = SMALL.replace(optimizer="plain", lr=1e30, warmup_epochs=0)
    with pytest.raises(NonFiniteLoss, match=r"step \d+ is not finite.*Lower lr"):
        train(experiment, tmp_path, execution=EACH, progress=False)
    assert Run.open(tmp_path).steps == (0,)


def test_clipping_bounds_the_step_not_the_record(tmp_path: Path) -> None:
    """With SGD without momentum at constant rate, the first step moves by at most lr · clip_gradient."""
    experiment = SMALL.replace(
        optimizer="plain", momentum=0.0, weight_decay=0.0, schedule="constant", warmup_epochs=0, clip_gradient=1e-3,
        epochs=1, batch_size=150,
    )  # fmt: skip
    run = train(experiment, tmp_path, execution=EACH, progress=False)
    moved = torch.linalg.vector_norm(run.checkpoint("last").theta - run.checkpoint("first").theta)
    assert float(run.metrics["gradient_norm"][0]) > 0.1
    assert moved.item() == pytest.approx(experiment.lr * 1e-3, rel=1e-3)


def test_bf16_trains(tmp_path: Path) -> None:
    run = train(SMALL.replace(optimizer="sam", precision="bf16", epochs=8), tmp_path, execution=EACH, progress=False)
    assert run.checkpoint("last").theta.dtype == torch.float32
    assert float(run.metrics["test_accuracy"][-1]) > 0.5


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    """In float64 the two differ by rounding alone; the method's gradients are counted as one for each batch."""
    experiment = SMALL.replace(optimizer="sam", precision="float64", rho=0.1)
    whole = train(experiment, tmp_path / "whole", execution=EACH, progress=False)
    parts = train(experiment, tmp_path / "parts", execution=EACH.replace(micro_batch_size=20), progress=False)
    torch.testing.assert_close(whole.checkpoint("last").theta, parts.checkpoint("last").theta, rtol=1e-10, atol=1e-12)
    assert float(parts.metrics["gradient_evaluations"][-1]) == 24


def test_resuming_with_micro_batches_is_exact(tmp_path: Path) -> None:
    experiment, execution = SMALL.replace(optimizer="msam", model_options=RANDOM), EACH.replace(micro_batch_size=20)
    whole = train(experiment, tmp_path / "whole", execution=execution, progress=False)
    train(experiment, tmp_path / "cut", execution=execution, progress=False)
    cut = Run.open(tmp_path / "cut")
    for step in cut.steps[2:]:
        cut.checkpoint_path(step).unlink()
    equal(whole, train(experiment, tmp_path / "cut", progress=False))


def test_a_float64_run_is_asked_in_float64(tmp_path: Path) -> None:
    run = train(SMALL.replace(precision="float64", epochs=1), tmp_path, execution=EACH, progress=False)
    objective = run.checkpoint("last").objective()
    assert objective.gradient().dtype == torch.float64
    assert float(objective()) == pytest.approx(float(run.metrics["train_loss"][-1]), rel=1e-6)


def test_a_wrong_option_does_not_claim_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rho"):
        train(SMALL.replace(optimizer="sam", rho=-0.1), tmp_path / "run", execution=EACH, progress=False)
    assert not (tmp_path / "run").exists()
    assert train(SMALL.replace(optimizer="sam"), tmp_path / "run", execution=EACH, progress=False).finished


def test_a_run_that_goes_astray_on_its_last_step_is_not_finished(tmp_path: Path) -> None:
    """The losses of the steps are finite, each taken before its update; the loss after the last one is not."""
    experiment = SMALL.replace(
        optimizer="plain", lr=1e38, warmup_epochs=0, epochs=1, batch_size=150, schedule="constant"
    )
    with pytest.raises(NonFiniteLoss, match="train_loss at step 1 is not finite"):
        train(experiment, tmp_path, execution=EACH, progress=False)
    assert Run.open(tmp_path).steps == (0,)


def test_a_training_set_just_over_the_evaluation_batch(tmp_path: Path) -> None:
    """1025 examples: no batch of one, which BatchNorm could not normalise."""
    experiment = SMALL.replace(data_options={"train_examples": 1025}, model_options=RANDOM, batch_size=41, epochs=1)
    assert train(experiment, tmp_path, execution=EACH, progress=False).finished


def test_plain_training_is_a_plain_loop(tmp_path: Path) -> None:
    """Against torch alone: the same data order, schedule, clipping and smoothing give the same bits."""
    experiment = SMALL.replace(
        optimizer="plain", model_options=RANDOM, clip_gradient=0.5, label_smoothing=0.1, schedule="constant",
        warmup_epochs=0, epochs=2,
    )  # fmt: skip
    run = train(experiment, tmp_path, execution=EACH, progress=False)
    loaded = data.load(experiment)
    with isolated(experiment.seed, "training of process 0"):
        model = models.build(experiment, loaded)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for epoch in range(2):
            model.train()
            for index in torch.randperm(150, generator=generator(0, "data order", epoch)).split(64):
                optimizer.zero_grad()
                outputs = model(loaded.train.inputs[index])
                torch.nn.functional.cross_entropy(outputs, loaded.train.targets[index], label_smoothing=0.1).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert torch.equal(run.checkpoint("last").theta, theta)

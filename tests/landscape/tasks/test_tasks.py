"""Whatever the task: one mean over what it counts, in steps, micro-batches, evaluations and objectives alike."""

import itertools
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_problems import EXECUTION, EXPERIMENTS, IGNORED, LANGUAGE, REGRESSION
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import analyses
import optimizers
from landscape.data import Minibatch
from landscape.experiment import Experiment
from landscape.recipe import Recipe
from landscape.runs.run import Run
from landscape.training.interruption import Interrupted
from landscape.training.state import Training
from landscape.training.training import train

DOUBLE = {name: experiment.replace(precision="float64") for name, experiment in EXPERIMENTS.items()}


def steps(experiment: Experiment, number: int = 3, **how: Any) -> Training:
    training = Training(experiment, EXECUTION.replace(**how))
    training.model.train()
    for batch in itertools.islice(training.batches_of_epoch(0), number):
        training.take_step(batch)
    return training


def trained(experiment: Experiment, folder: Path, **how: Any) -> Run:
    return train(experiment, folder, execution=EXECUTION.replace(**how), progress=False)


def weights(training: Training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.parameters])


def torchs_own(experiment: Experiment, output, targets):
    """The mean loss of all targets at once, in torch's words."""
    if experiment.task == "classification":
        return F.cross_entropy(output, targets)
    if experiment.task == "regression":
        return F.mse_loss(output["prediction"], targets)
    if experiment.task == "language":
        logits = output.logits
        if experiment.task_options:
            logits, targets = logits[:, :-1], targets[:, 1:]
        return F.cross_entropy(logits.transpose(1, 2), targets)
    there = ~targets.isnan()
    return (output["prediction"] - targets)[there].square().mean()


def of_all(experiment: Experiment, model, split):
    inputs = split.inputs if isinstance(split.inputs, tuple) else (split.inputs,)
    output = model(**inputs[0]) if isinstance(inputs[0], dict) else model(*inputs)
    return torchs_own(experiment, output, split.targets)


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("optimizer", ["sam", "msam"])
@pytest.mark.parametrize("task", EXPERIMENTS)
def test_micro_batches_add_up_to_the_batch(task: str, optimizer: str, size: int) -> None:
    """Also where a micro-batch has nothing that counts."""
    experiment = DOUBLE[task].replace(optimizer=optimizer, rho=0.5)
    whole, parts = steps(experiment), steps(experiment, micro_batch_size=size)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=0, atol=1e-12)
    for name in ("loss", "gradient_norm", "l2_psf"):
        np.testing.assert_allclose(whole.recorder.fetch(name)[1], parts.recorder.fetch(name)[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_parts_that_climb_for_themselves_weigh_what_they_count(task: str) -> None:
    """With a radius of nothing m-SAM is the base optimizer."""
    plain = steps(DOUBLE[task].replace(optimizer="sam", rho=0.0), probe_every=0)
    for options in ({"m": 5}, {"m": 4, "vectorize": True}):
        parts = DOUBLE[task].replace(optimizer="m_sam", rho=1e-13, optimizer_options=options)
        torch.testing.assert_close(weights(plain), weights(steps(parts, probe_every=0)), rtol=0, atol=1e-11)


@pytest.mark.filterwarnings("ignore:rho = ")
@pytest.mark.parametrize("optimizer", [n for n in optimizers.available() if optimizers.describe(n).needs_batch])
@pytest.mark.parametrize("task", EXPERIMENTS)
def test_methods_that_look_into_the_batch_take_every_task(task: str, optimizer: str) -> None:
    assert weights(steps(EXPERIMENTS[task].replace(optimizer=optimizer))).isfinite().all()


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_every_number_is_the_mean_over_all_the_data(task: str, tmp_path) -> None:
    """Recorded losses, and the objective's value, gradient and Hessian, beside torch's own of one batch."""
    run = trained(DOUBLE[task], tmp_path / "run")
    checkpoint = run.checkpoint("last")
    test, model = checkpoint.data().test.to("cpu", torch.float64), checkpoint.model().eval()
    parameters = list(model.parameters())
    v = torch.linspace(-1, 1, sum(p.numel() for p in parameters), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        expected = of_all(DOUBLE[task], model, test)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(expected, parameters, create_graph=True)])
        product = torch.cat([p.flatten() for p in torch.autograd.grad(gradient @ v, parameters)])
    expected, gradient = expected.detach(), gradient.detach()
    assert float(run.metrics["test_loss"][-1]) == pytest.approx(float(expected), abs=1e-12)
    for batch_size, micro_batch in ((7, None), (30, 4)):
        objective = checkpoint.objective("test", batch_size=batch_size, micro_batch=micro_batch)
        assert float(objective()) == pytest.approx(float(expected), abs=1e-12)
        torch.testing.assert_close(objective.gradient(), gradient, rtol=0, atol=1e-12)
        torch.testing.assert_close(objective.hessian() @ v, product, rtol=1e-12, atol=1e-11)
    assert objective.weight == int(Training(DOUBLE[task]).loss.task.count(test.targets))


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_the_fisher_matrix_is_that_of_the_tasks_likelihood(task: str, tmp_path) -> None:
    checkpoint = trained(DOUBLE[task].replace(epochs=1), tmp_path / "run").checkpoint("last")
    objective = checkpoint.objective(batch_size=7)
    v = torch.linspace(-1, 1, objective.size, dtype=torch.float64)
    gauss_newton = objective.ggn() @ v
    if task == "own":
        with pytest.raises(ValueError, match="cannot tell the likelihood that the loss Present"):
            objective.fisher()
        return
    # of the gaussian: the sum over an example's two numbers, where the mean squared error halves and doubles it
    torch.testing.assert_close(objective.fisher() @ v, gauss_newton, rtol=1e-10, atol=1e-12)
    assert float(v @ (objective.fisher(kind="empirical") @ v)) > 0


def test_metrics_are_those_of_all_the_data(tmp_path) -> None:
    from sklearn.metrics import r2_score

    run = trained(DOUBLE["regression"], tmp_path / "regression")
    checkpoint = run.checkpoint("last")
    test = checkpoint.data().test.to("cpu", torch.float64)
    with torch.no_grad():
        predicted = checkpoint.model()(*test.inputs)["prediction"]
    expected = r2_score(test.targets.numpy(), predicted.numpy(), multioutput="variance_weighted")
    assert float(run.metrics["test_r2"][-1]) == pytest.approx(expected, abs=1e-12)
    assert float(run.metrics["test_mse"][-1]) == pytest.approx(float(run.metrics["test_loss"][-1]))

    run = trained(LANGUAGE.replace(label_smoothing=0.1), tmp_path / "language")
    checkpoint = run.checkpoint("last")
    test = checkpoint.data().test
    with torch.no_grad():
        logits = checkpoint.model().eval()(**test.inputs).logits
    asked = test.targets != IGNORED
    right = (logits.argmax(-1) == test.targets)[asked].double().mean()
    likelihood = F.cross_entropy(logits.transpose(1, 2), test.targets)
    assert float(run.metrics["test_accuracy"][-1]) == pytest.approx(float(right))
    assert float(run.metrics["test_perplexity"][-1]) == pytest.approx(math.exp(likelihood), rel=1e-6)
    assert float(run.metrics["test_loss"][-1]) > float(likelihood)  # smoothed
    assert run.metrics["train_perplexity"].attrs == {"examples": 30}


@pytest.mark.parametrize("task", ["own", "language"])
def test_a_run_of_any_task_resumes_in_the_middle_of_an_epoch_bit_for_bit(task: str, tmp_path, monkeypatch) -> None:
    experiment = EXPERIMENTS[task].replace(model_options={"dropout": 0.3})
    whole = trained(experiment, tmp_path / "whole")
    take = Training.take_step

    def stopped(self: Training, batch: Minibatch) -> None:
        take(self, batch)
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Training, "take_step", stopped)
    with pytest.raises(Interrupted):
        trained(experiment, tmp_path / "cut")
    monkeypatch.undo()
    cut = trained(experiment, tmp_path / "cut")
    assert 4 in cut.steps  # of 3 an epoch
    assert torch.equal(whole.checkpoint("last").theta, cut.checkpoint("last").theta)
    for name in set(whole.metrics) - {"seconds"}:
        np.testing.assert_array_equal(whole.metrics[name], cut.metrics[name], err_msg=str(name))


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_bfloat16_is_of_the_network_alone(task: str, tmp_path) -> None:
    """The loss is taken in the precision of the weights, near that of float32, in training and by an objective."""
    experiment = EXPERIMENTS[task].replace(epochs=1)
    run = trained(experiment.replace(precision="bf16"), tmp_path / "run")
    exact = steps(experiment, 0)
    low = steps(experiment.replace(precision="bf16"), 0)
    for training in (exact, low):
        training.evaluate()
    assert low.recorder.fetch("test_loss")[1] == pytest.approx(exact.recorder.fetch("test_loss")[1], rel=0.02)
    seen = []
    loss = low.loss.task.loss
    low.loss.task.loss = lambda outputs, targets: (
        seen.append((outputs.dtype, torch.is_autocast_enabled("cpu"))) or loss(outputs, targets)
    )
    low.take_step(next(low.batches_of_epoch(0)))
    assert set(seen) == {(torch.float32, False)}
    checkpoint = run.checkpoint("last")
    recorded = float(run.metrics["test_loss"][-1])
    assert float(checkpoint.objective("test", autocast=torch.bfloat16)()) == pytest.approx(
        recorded, rel=5e-4
    )  # its attention is another kernel
    assert float(checkpoint.objective("test")()) == pytest.approx(recorded, rel=0.02)


def test_nothing_of_a_batch_counts() -> None:
    """A batch whose tokens are all ignored is a step of nothing, no NaN."""
    training = steps(LANGUAGE.replace(weight_decay=0.0, momentum=0.0), 0, probe_every=0)
    before, (inputs, targets, examples) = weights(training), next(training.batches_of_epoch(0))
    training.take_step(Minibatch(inputs, torch.full_like(targets, IGNORED), examples))
    assert torch.equal(weights(training), before)
    assert training.recorder.fetch("loss")[1] == [0.0]


def test_r2_says_when_targets_do_not_vary() -> None:
    task = Training(REGRESSION).loss.task

    def r2(targets: torch.Tensor) -> float:
        sums = task.sums(targets + 0.5, targets)
        return float(task.measured({**sums, "count": torch.tensor(float(targets.numel()))})["r2"])

    assert math.isnan(r2(torch.full((9, 2), 1e6)))
    assert r2(1e6 + torch.arange(9.0)) == pytest.approx(1 - 0.25 * 9 / 60, rel=1e-3)


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_training_counts_on_the_device(task: str) -> None:
    """No step waits for the device: nothing is read from it."""
    training = steps(EXPERIMENTS[task], 0, micro_batch_size=5, probe_every=0)
    count = training.loss.task.count(training.feed.targets("train"))
    assert isinstance(count, int) or (isinstance(count, torch.Tensor) and not count.ndim)


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_weigh_what_they_count_and_resume(tmp_path: Path) -> None:
    """Of a task of one's own on two inputs and a dict of outputs, whose shares count unevenly; cut within an epoch."""
    experiment = DOUBLE["own"].replace(epochs=1)
    one = trained(experiment, tmp_path / "one", probe_every=0)
    for name, cut in (("two", 0), ("cut", 2), ("cut", 0)):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        recipe = tmp_path / "asked.toml"
        recipe.write_text(Recipe(experiment, EXECUTION.replace(probe_every=0)).to_toml())
        script = Path(__file__).parent / "two_processes.py"
        done = subprocess.run(
            [*command, str(script), str(recipe), str(tmp_path / name), str(cut)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert Run.open(tmp_path / name).steps[-1] == (cut or one.steps[-1])
    two, again = (Run.open(tmp_path / name).checkpoint("last") for name in ("two", "cut"))
    torch.testing.assert_close(one.checkpoint("last").theta, two.theta, rtol=0, atol=1e-12)
    assert torch.equal(two.theta, again.theta)
    for name in ("loss", "test_loss", "test_mae"):
        np.testing.assert_allclose(one.metrics[name], Run.open(tmp_path / "two").metrics[name], rtol=1e-10)


MISFITS = {
    "classification of numbers": (REGRESSION.replace(task="classification"), "classification takes labels as indices"),
    "regression of labels": (EXPERIMENTS["classification"].replace(task="regression"), "expected floating-point targets"),
    "another shape": (REGRESSION.replace(task_options={"output": "hidden"}), "expected outputs of the shape of the targets"),
    "no such output": (REGRESSION.replace(task_options={"output": "logit"}), "expected a tensor, or a tuple, mapping"),
    "too few outputs": (EXPERIMENTS["classification"].replace(model_options={"classes": 4}), "expected labels from 0 to 3"),
    "tokens as classes": (LANGUAGE.replace(task="classification"), "one label for each position is for the task language"),
    "missing numbers": (REGRESSION.replace(data_options={"missing": 0.4}), "expected finite targets, got NaN"),
    "smoothed numbers": (REGRESSION.replace(label_smoothing=0.1), "smooths no labels"),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_task_that_does_not_fit_is_refused_before_the_first_step(misfit: str, tmp_path: Path) -> None:
    experiment, says = MISFITS[misfit]
    with pytest.raises(ValueError, match=says):
        trained(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


ASKED = {  # a number of each, and options
    "top_eigenvalues": ("eigenvalue", {"k": 2}),
    "directional_sharpness": ("sharpness", {"samples": 2, "radii": [-0.1, 0.1]}),
    "psf": ("l2_psf", {"batches": 2}),
    "gradient_similarity": ("cosine", {"batches": 2}),
    "m_sharpness": ("sharpness", {"m": [5]}),
    "trace": ("trace", {"max_products": 20}),
}


@pytest.mark.parametrize("task", ["regression", "own", "language"])
def test_analyses_are_of_any_task(task: str, tmp_path: Path) -> None:
    """The losses in them are the objective's, which the tests above hold to torch's own."""
    checkpoint = trained(DOUBLE[task].replace(epochs=1), tmp_path / "run").checkpoint("last")
    for name, (number, options) in ASKED.items():
        assert np.isfinite(analyses.get(name)(checkpoint, **options)[number]).all(), name
    largest = torch.linalg.eigvalsh(checkpoint.objective().hessian() @ torch.eye(checkpoint.theta.numel()).double())[-1]
    found = analyses.top_eigenvalues(checkpoint, k=1, tol=1e-6)
    assert float(found.eigenvalue[0]) == pytest.approx(float(largest), rel=1e-6)

"""The barrier between two points against closed forms on quadratics."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from every_analysis import second
from sharpness_problems import regression
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import analyses
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.objective.objective import Objective
from landscape.shared_examples import evaluated_examples
from landscape.training.training import train


@pytest.mark.parametrize("sign", [1, -1], ids=["a bowl", "a hill"])
def test_on_a_quadratic_the_loss_bends_by_its_curvature(sign: int) -> None:
    """L(θ(α)) − chord = −½ α(1−α) dᵀHd: no barrier in a bowl, dᵀHd/8 halfway over a hill."""
    bowl, _, hessian, _ = regression()
    objective = Objective(bowl.model, lambda p, t: sign * bowl.loss_fn(p, t), list(bowl.batches))
    found = analyses.interpolation_barrier(objective, other=second(objective, 0.7), points=5)
    away = torch.full((objective.size,), 0.7, dtype=torch.float64)
    bend = sign * float(away @ hessian @ away)
    alpha = np.linspace(0, 1, 5)
    np.testing.assert_allclose(found.excess, -bend * alpha * (1 - alpha) / 2, atol=1e-12)
    assert float(found.barrier) == pytest.approx(max(0.0, -bend / 8), abs=1e-12)
    assert float(found.loss[0]) == pytest.approx(float(objective()), rel=1e-12)
    if sign < 0:
        assert float(found.barrier_alpha) == 0.5


def convnet() -> nn.Sequential:
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6)
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 3)).double()


def by_hand(
    model: nn.Module, ends: list[list[Tensor]], gathered: list[Tensor], data: list[tuple[Tensor, Tensor]], points: int
) -> list[float]:
    """Torch alone: at each point weights written into a copy, statistics by `update_bn`, the loss of all data at once."""
    losses = []
    for alpha in np.linspace(0, 1, points):
        there = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, one, other in zip(there.parameters(), *ends, strict=True):
                parameter.copy_((1 - alpha) * one + alpha * other)
            update_bn(gathered, there)
            inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
            losses.append(float(nn.functional.cross_entropy(there.eval()(inputs), targets)))
    return losses


def test_with_batch_norm_it_is_torchs_own_computation_with_statistics_gathered_at_every_point() -> None:
    """In float64; those of either end, or of the batch, would give another barrier."""
    model = convnet().eval()
    sizes = 20, 20, 9
    data = [(torch.randn(n, 1, 8, 8, dtype=torch.float64) + 1, torch.randint(3, (n,))) for n in sizes]
    objective = Objective(model, nn.CrossEntropyLoss(), data)
    found = analyses.interpolation_barrier(objective, other=(other := second(objective, 0.3)), points=6)
    ends = [list(model.parameters()), list(other.parameters.values())]
    loss = np.array(by_hand(model, ends, [inputs for inputs, _ in data], data, 6))
    np.testing.assert_allclose(found.loss, loss, rtol=1e-12)
    excess = loss - np.linspace(loss[0], loss[-1], 6)
    np.testing.assert_allclose(found.excess, excess, atol=1e-12)
    assert float(found.barrier) == pytest.approx(excess.max(), abs=1e-12)
    assert found.attrs["objective_batch_norm"] == "statistics gathered over 49 examples"
    assert found.attrs["evaluations"] == 12  # at each of the 6 points one to gather, one to evaluate
    away = objective.space.flatten(other.parameters) - objective.theta
    running = np.array([float(objective(objective.theta + a * away)) for a in found.alpha.values])
    trained = Objective(model, nn.CrossEntropyLoss(), data, mode="batch")
    batch = analyses.interpolation_barrier(trained, other=other, points=6)
    assert abs(running / loss - 1).max() > 0.01
    assert abs(batch.loss.values / loss - 1).max() > 1e-4
    assert batch.attrs["objective_batch_norm"] == "batch statistics"


@pytest.mark.parametrize("evaluated", [100, 10_000])
def test_from_a_checkpoint_the_ends_are_the_evaluations_of_either_split(tmp_path: Path, evaluated: int) -> None:
    """Statistics over the training examples of the evaluation, also for the loss of the test data."""
    experiment = Experiment(
        data_options={"train_examples": 150}, model="convnet", model_options={"channels": [3]}, batch_size=50,
        epochs=1, precision="float64",
    )  # fmt: skip
    execution = Execution(evaluation_examples=evaluated)
    a, b = (
        train(experiment.replace(seed=s), tmp_path / str(s), execution=execution, progress=False).checkpoint()
        for s in (0, 1)
    )
    train_data = a.data().train.to("cpu", torch.float64)
    gathered = train_data.inputs[evaluated_examples(evaluated, 150)]
    for split in ("train", "test"):
        found = analyses.interpolation_barrier(a, other=b.path, points=3, split=split)
        for end, checkpoint in ((0, a), (-1, b)):
            assert float(found.loss[end]) == pytest.approx(float(checkpoint.objective(split)()), rel=1e-12)
        ends = [list(checkpoint.parameters.values()) for checkpoint in (a, b)]
        loss = by_hand(a.model(), ends, [gathered], list(a.objective(split).batches), 3)
        np.testing.assert_allclose(found.loss, loss, rtol=1e-12)
        assert found.attrs["objective_batch_norm"] == f"statistics gathered over {len(gathered)} examples"
        passes = 3 * (1 + len(gathered) / found.attrs["objective_examples"])
        assert found.attrs["evaluations"] == pytest.approx(passes)


def test_another_network_is_refused(tmp_path: Path) -> None:
    stranger = second(Objective(nn.Linear(2, 3), nn.CrossEntropyLoss(), [(torch.zeros(1, 2), torch.zeros(1).long())]))
    with pytest.raises(ValueError, match="expected"):
        analyses.interpolation_barrier(regression()[0], other=stranger)

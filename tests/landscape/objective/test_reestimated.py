"""An objective far from its model's weights, with BatchNorm's statistics gathered there, against torch's own way."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from landscape.objective.objective import Objective
from landscape.objective.parameters import ParameterSpace


def convnet() -> nn.Sequential:
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6)
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 3)).double()


def batches(sizes: tuple[int, ...] = (20, 20, 9)) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, 1, 8, 8, dtype=torch.float64) + 1, torch.randint(3, (n,))) for n in sizes]


def far_from(objective: Objective) -> Tensor:
    return objective.theta + torch.randn(objective.size, dtype=torch.float64)


def torchs_own(model: nn.Module, theta: Tensor, data: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """A copy with θ loaded and `update_bn` run on it."""
    other = copy.deepcopy(model)
    nn.utils.vector_to_parameters(theta, other.parameters())
    update_bn([inputs for inputs, _ in data], other)
    return other.eval()


@pytest.mark.parametrize("options", [{}, {"mode": "unchanged"}, {"micro_batch": 10}], ids=str)
def test_far_away_it_is_a_copy_with_updated_statistics(options: dict[str, Any]) -> None:
    model, data = convnet().eval(), batches()
    objective = Objective(model, nn.CrossEntropyLoss(), data, **options)
    theta = far_from(objective)
    found = objective.reestimated(theta)
    parts = [(x[i:j], y[i:j]) for x, y in data for i, j in ((0, 10), (10, 20)) if i < len(x)]
    expected = Objective(torchs_own(model, theta, parts if "micro_batch" in options else data), objective.loss_fn, data)
    assert torch.equal(found.theta, theta)
    torch.testing.assert_close(found(), expected(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found(theta), expected(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gradient(), expected.gradient(), rtol=1e-9, atol=1e-12)
    assert abs(objective(theta) / found() - 1) > 0.1  # so that the statistics decide something
    assert found.description["batch_norm"] == "statistics gathered over 49 examples"


def test_the_model_is_untouched() -> None:
    model = convnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective = Objective(model, nn.CrossEntropyLoss(), batches())
    value = objective()
    objective.reestimated(far_from(objective))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(objective(), value)


def test_at_most_so_many_examples_and_each_counted() -> None:
    model, data = convnet(), batches()
    objective = Objective(model, nn.CrossEntropyLoss(), data)
    theta = far_from(objective)
    for examples, used in ((1, 1), (39, 1), (40, 2), (48, 2), (49, 3), (10_000, 3)):
        before = objective.evaluations
        found = objective.reestimated(theta, examples=examples)
        passed = sum(len(y) for _, y in data[:used])
        assert objective.evaluations - before == pytest.approx(passed / 49)
        expected = Objective(torchs_own(model, theta, data[:used]), objective.loss_fn, data)
        torch.testing.assert_close(found(), expected(), rtol=1e-12, atol=0)
        assert objective.evaluations - before == pytest.approx(passed / 49 + 1)  # that of what came from it too


def test_statistics_stay_over_other_data_and_other_parameters_stay_where_they_are() -> None:
    model, train, test = convnet(), batches(), batches((30,))
    objective = Objective(model, nn.CrossEntropyLoss(), test)
    theta = far_from(objective)
    found = objective.on(train).reestimated(theta).on(test)
    expected = Objective(torchs_own(model, theta, train), objective.loss_fn, test)
    torch.testing.assert_close(found(), expected(), rtol=1e-12, atol=0)

    part = objective.restricted("0")
    moved = part.theta + torch.randn(part.size, dtype=torch.float64)
    whole = {**dict(model.named_parameters()), **part.space.unflatten(moved)}
    expected = Objective(torchs_own(model, ParameterSpace.of(model).flatten(whole), test), objective.loss_fn, test)
    torch.testing.assert_close(part.reestimated(moved)(), expected(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_where_no_statistics_are_used_nothing_is_gathered(mode: Any) -> None:
    model = convnet() if mode == "batch" else nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    objective = Objective(model, nn.CrossEntropyLoss(), batches(), mode=mode)
    theta = far_from(objective)
    found = objective.reestimated(theta)
    assert objective.evaluations == 0
    torch.testing.assert_close(found(), objective(theta), rtol=1e-13, atol=0)

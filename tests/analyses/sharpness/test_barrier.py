"""The barrier between two points against closed forms on quadratics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from every_analysis import second
from sharpness_problems import regression
from torch import nn

import analyses
from landscape.experiment import Experiment
from landscape.objective.objective import Objective
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


def test_running_statistics_are_refused_and_a_checkpoint_takes_the_batchs(tmp_path: Path) -> None:
    options = {"widths": [4], "batch_norm": True}
    experiment = Experiment(data_options={"train_examples": 32}, model_options=options, batch_size=16, epochs=1)
    a, b = (train(experiment.replace(seed=s), tmp_path / str(s), progress=False) for s in (0, 1))
    found = analyses.interpolation_barrier(a.checkpoint(), other=b.path, points=3)
    assert found.attrs["batch_norm"] == found.attrs["objective_batch_norm"] == "batch statistics"
    there = b.checkpoint().objective(mode="batch")
    assert float(found.loss[-1]) == pytest.approx(float(there()), rel=1e-5)
    with pytest.raises(ValueError, match=r'expected Objective\(mode="batch"\)'):
        analyses.interpolation_barrier(a.checkpoint().objective(), other=b)


def test_another_network_is_refused(tmp_path: Path) -> None:
    stranger = second(Objective(nn.Linear(2, 3), nn.CrossEntropyLoss(), [(torch.zeros(1, 2), torch.zeros(1).long())]))
    with pytest.raises(ValueError, match="expected"):
        analyses.interpolation_barrier(regression()[0], other=stranger)

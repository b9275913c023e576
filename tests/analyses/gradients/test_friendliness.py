"""F-SAM's components against what least squares say in closed form, and from a checkpoint's own average."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sharpness_problems import regression

import analyses
from landscape.experiment import Experiment
from landscape.training.training import train


@pytest.mark.parametrize("given", [False, True], ids=["gradient of all data", "an average"])
def test_the_rises_are_those_of_the_quadratic(given: bool) -> None:
    """L_B(θ + ρu) − L_B(θ) = ρ g_B·u + ½ ρ² uᵀ H_B u, on the own batch and on the examples of all others."""
    objective, full, _, theta = regression()
    average = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64) if given else None
    found = analyses.friendliness(objective, rho=0.3, batches=3, gradient_average=average)
    assert found.attrs["full_gradient"] == ("average" if given else "of all data")
    data = [(x.numpy(), y.numpy()) for x, y, *_ in objective.batches]
    w, unit_full = theta.numpy(), (full if average is None else average).numpy()
    unit_full = unit_full / np.linalg.norm(unit_full)
    for i in range(3):
        x, y = data[i]
        g = x.T @ (x @ w - y) / len(x)
        along = (g @ unit_full) * unit_full
        rest = [np.concatenate(parts) for parts in zip(*(pair for j, pair in enumerate(data) if j != i), strict=True)]
        for component, d in (("full", along), ("noise", g - along), ("gradient", g)):
            u = d / np.linalg.norm(d)
            for on, (a, b) in (("own batch", (x, y)), ("the rest", rest)):
                expected = 0.3 * u @ (a.T @ (a @ w - b)) / len(a) + 0.045 * u @ (a.T @ (a @ u)) / len(a)
                rise = float(found.rise.sel(batch=i, component=component, on=on))
                assert rise == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_a_checkpoint_of_fsam_brings_its_own_average(tmp_path: Path) -> None:
    experiment = Experiment(
        data_options={"train_examples": 64}, model_options={"widths": [4]}, batch_size=16, epochs=1, optimizer="fsam"
    )
    run = train(experiment, tmp_path / "run", progress=False)
    found = analyses.friendliness(run.checkpoint())
    assert found.attrs["full_gradient"] == "average"
    assert found.attrs["gradient_average"] == "the checkpoint's"
    own = found.rise_mean.sel(on="own batch")
    assert (own.sel(component="gradient") >= own - 1e-6).all()  # to first order nothing rises faster


def test_one_batch_has_no_rest() -> None:
    objective = regression()[0]
    with pytest.raises(ValueError, match="at least 2 batches"):
        analyses.friendliness(objective.on(list(objective.batches)[:1]))

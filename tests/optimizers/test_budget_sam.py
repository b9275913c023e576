"""A budget of gradients that is kept at any time, and spent where reusing h would err most."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_problems import Vector
from optimizer_training import Smooth, Training, climbs

import optimizers


@settings(deadline=None, max_examples=12)
@given(per_step=st.floats(1.0, 2.0), seed=st.integers(0, 100))
def test_budget_is_kept_to_within_one_gradient_at_any_time(per_step, seed):
    training = Training("budget_sam", net=Smooth, per_step=per_step, seed=seed)
    spent = 0
    for step, climbed in enumerate(climbs(training, 60), start=1):
        spent += 1 + climbed
        assert abs(spent - per_step * step) <= 1 + 1e-9


def test_budget_climbs_where_reusing_h_would_err_most():
    """The gradient's length alternates in long phases; where it is short, h weighs more, and more climbs fall there."""
    model = Vector(torch.ones(6, dtype=torch.float64))
    optimizer = optimizers.BudgetSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, per_step=1.3)
    taken = {False: 0, True: 0}
    for step in range(600):
        steep = step % 2 == 0
        tilt = 20.0 if steep else 0.0

        def closure(tilt=tilt):
            optimizer.zero_grad()
            loss = model.vector.square().sum() / 2 + tilt * model.vector.sum()
            loss.backward()
            return loss

        before = optimizer.gradient_evaluations
        optimizer.step(closure)
        taken[steep] += optimizer.gradient_evaluations - before == 2
    assert sum(taken.values()) == pytest.approx(180, abs=1)
    assert taken[False] > 2 * taken[True]

"""When vSAM takes the second gradient: exact counts, any history, and its rule."""

import statistics

import pytest
import torch
from optimizer_problems import LogisticBatches
from optimizer_training import Smooth, Training, climbs

import optimizers
from optimizers.vsam import block_variance


@pytest.mark.parametrize("warmup", [0, 1, 7, 60])
@pytest.mark.parametrize("window", [2, 10, 50])
def test_vsam_takes_exactly_s_climbs_a_window_with_any_history(window, warmup):
    """A history shorter than the window, or empty, is no reason to fail."""
    training = Training("vsam", net=Smooth, window=window, warmup=warmup)
    assert climbs(training, warmup) == [True] * warmup
    policy = training.optimizer.policy
    for _ in range(4):
        taken = climbs(training, window)
        assert sum(taken) == int(policy.s)
        assert 1 <= policy.s <= int(0.8 * window)
        assert policy.left == policy.climbs_left == 0


def test_vsam_places_climbs_at_random():
    training = Training("vsam", net=Smooth, window=10, warmup=0)
    places = {tuple(climbs(training, 10)) for _ in range(6)}
    assert len(places) > 2


def test_vsam_follows_its_rule():
    """s rises by 1 + α₁ r_q + α₂ r_v when lengths and variances rise; everything computed here by hand."""
    policy = optimizers.VarianceWindow(window=10, blocks=2, warmup=0, alpha=(0.5, 0.25))
    policy.ratios, policy.variances = [1.0, 1.1, 1.32], [2.0, 3.0]
    policy.s = 2.0
    policy.s = policy._window()[0]
    assert policy.s == pytest.approx(2.0 * (1 + 0.5 * statistics.mean([0.1, 0.2]) + 0.25 * 0.5))
    policy.ratios, policy.variances = [1.0, 9.0], [1.0, 0.0, 5.0]  # clipped to 1; a zero has no relative change
    policy.s = policy._window()[0]
    assert policy.s == pytest.approx(2.4 * (1 + 0.5 - 0.25))
    policy.s = 7.9
    policy.s = policy._window()[0]
    assert policy.s == 8.0  # the cap


def test_block_variance_is_the_mean_of_unbiased_variances_of_sorted_blocks():
    values = [5.0, 1.0, 4.0, 2.0, 9.0, 7.0]
    blocks = [[1.0, 2.0], [4.0, 5.0], [7.0, 9.0]]
    assert block_variance(values, 3) == pytest.approx(statistics.mean(map(statistics.variance, blocks)))
    assert block_variance([3.0], 5) == 0.0
    assert block_variance([3.0, 5.0], 5) == pytest.approx(2.0)


def test_vsam_notes_the_norms_of_h_and_of_the_gradient():
    problem = LogisticBatches()
    model = problem.model()
    optimizer = optimizers.VSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, warmup=5)
    for batch in range(5):
        optimizer.step(problem.closure(model, batch))
    optimizer.policy._read()
    for batch, length, ratio in zip(range(5), optimizer.policy.lengths, optimizer.policy.ratios, strict=True):
        g = problem.gradient(problem.start, batch)
        h = problem.gradient(problem.start + 0.1 * g / g.norm(), batch) - g
        assert length == pytest.approx(float(h.norm()), rel=1e-10)
        assert ratio == pytest.approx(float(h.norm() / g.norm()), rel=1e-10)

"""When the second gradient is taken: exact counts, any size of data set, and an average that follows the gradient."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_problems import LogisticBatches, Vector
from optimizer_training import Smooth, Training

import optimizers
from optimizers.vsam import block_variance


def climbs(training, steps):
    taken = []
    for _ in range(steps):
        before = training.optimizer.gradient_evaluations
        training.step()
        taken.append(training.optimizer.gradient_evaluations - before == 2)
    return taken


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
    policy._start_window()
    assert policy.s == pytest.approx(2.0 * (1 + 0.5 * statistics.mean([0.1, 0.2]) + 0.25 * 0.5))
    policy.ratios, policy.variances = [1.0, 9.0], [1.0, 0.0, 5.0]  # clipped to 1; a zero has no relative change
    policy._start_window()
    assert policy.s == pytest.approx(2.4 * (1 + 0.5 - 0.25))
    policy.s = 7.9
    policy._start_window()
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


def drifting_gradients(turn, noise, steps, size=2000, seed=0):
    """A full gradient of length 1 that turns by `turn` of itself a step, and minibatch gradients with noise around it."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(size, generator=generator) / size**0.5
    for _ in range(steps):
        full = (1 - turn) * full + (1 - (1 - turn) ** 2) ** 0.5 * torch.randn(size, generator=generator) / size**0.5
        yield full, full + noise * torch.randn(size, generator=generator) / size**0.5


def adversary_error(lmbda, turn, noise=1.0, steps=240):
    """Mean ‖m_t − full gradient‖ over the second half, m_t from F-SAM itself."""
    model = Vector(torch.zeros(2000))
    optimizer = optimizers.FSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, lmbda=lmbda)
    errors, cosines = [], []
    for step, (full, minibatch) in enumerate(drifting_gradients(turn, noise, steps)):

        def closure(g=minibatch):
            optimizer.zero_grad()
            loss = model.vector @ g
            loss.backward()
            return loss

        optimizer.step(closure)
        if step >= steps // 2:
            m = torch.cat([optimizer.state[p]["gradient_average"] for p in model.parameters()])
            errors.append(float((m - full).norm()))
            cosines.append(abs(float(torch.cosine_similarity(minibatch - m, full, dim=0))))
    return statistics.mean(errors), statistics.mean(cosines)


@pytest.mark.parametrize("turn", [0.002, 0.05, 0.5])
def test_automatic_average_is_as_good_as_the_best_fixed_one(turn):
    """From gradients that have settled to gradients that turn within two steps: within 5 % of the best fixed λ each time,
    while each fixed λ is at least 20 % off somewhere (next test)."""
    best = min(adversary_error(lmbda, turn)[0] for lmbda in (0.6, 0.8, 0.9, 0.95, 0.98))
    assert adversary_error("auto", turn)[0] < 1.05 * best


def test_no_fixed_average_is_right_for_both():
    regimes = ((0.0005, 1.0), (0.5, 0.3))  # settled under noise; turning fast with little of it
    automatic = [adversary_error("auto", turn, noise)[0] for turn, noise in regimes]
    for lmbda in (0.2, 0.6, 0.9, 0.95):
        fixed = [adversary_error(lmbda, turn, noise)[0] for turn, noise in regimes]
        assert max(f / a for f, a in zip(fixed, automatic, strict=True)) > 1.2


def test_f_sam_leaves_the_full_gradient_out_of_the_perturbation():
    """cos(d, full gradient) ≈ 0 for a settled gradient; feeding the average with d instead leaves about half of it."""
    error, cosine = adversary_error(0.95, 0.0005, noise=3.0)
    assert error < 0.8
    assert cosine < 0.05

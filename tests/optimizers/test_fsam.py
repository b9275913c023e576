"""An average that follows the gradient: λ learned from its own errors, against every fixed one."""

import copy
import functools
import statistics

import pytest
import torch
from optimizer_problems import Vector
from optimizer_training import same
from sklearn.datasets import load_digits
from torch import nn

import optimizers


def drifting_gradients(turn, noise, steps=240, size=2000, seed=0):
    """A full gradient of length 1 that turns by `turn` of itself a step, and minibatch gradients with noise around it."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(size, generator=generator) / size**0.5
    for _ in range(steps):
        full = (1 - turn) * full + (1 - (1 - turn) ** 2) ** 0.5 * torch.randn(size, generator=generator) / size**0.5
        yield full, full + noise * torch.randn(size, generator=generator) / size**0.5


@functools.cache
def training_gradients(batch, lr, momentum, steps=600):
    """Full and minibatch gradients along the training of a small network on digits."""
    digits = load_digits()
    inputs, targets = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    gradients = []
    for _ in range(steps):
        rows = torch.randperm(len(inputs), generator=generator)[:batch]
        pair = []
        for x, y in ((inputs, targets), (inputs[rows], targets[rows])):
            base.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            pair.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        base.step()
        gradients.append(tuple(pair))
    return gradients


REGIMES = {
    "settled": lambda: drifting_gradients(0.002, 1.0),
    "turning slowly under noise": lambda: drifting_gradients(0.05, 1.0),
    "turning slowly": lambda: drifting_gradients(0.05, 0.3),
    "turning": lambda: drifting_gradients(0.2, 0.3),
    "turning within two steps under noise": lambda: drifting_gradients(0.5, 1.0),
    "turning within two steps": lambda: drifting_gradients(0.5, 0.3),
    "digits": lambda: training_gradients(128, 0.02, 0.0),
    "digits with momentum": lambda: training_gradients(32, 0.1, 0.9),
    "digits with momentum, large batches": lambda: training_gradients(512, 0.1, 0.9),
}
FIXED = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98)


def averages(lmbda, gradients):
    """m before each step and after it: of F-SAM itself if λ is learned, else by its recursion."""
    if lmbda != "auto":
        m = torch.zeros_like(gradients[0])
        for step, g in enumerate(gradients):
            before, m = m, g if step == 0 else lmbda * m + (1 - lmbda) * g
            yield before, m
        return
    model = Vector(torch.zeros_like(gradients[0]))
    optimizer = optimizers.FSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, lmbda=lmbda)
    after = torch.zeros_like(gradients[0])
    for g in gradients:
        follow(optimizer, model, g)
        before, after = after, torch.cat([optimizer.state[p]["gradient_average"] for p in model.parameters()])
        yield before, after


def follow(optimizer, model, gradient, seen=None):
    """One step on a loss with this gradient everywhere; `seen` gets the weights of each pass."""

    def closure():
        if seen is not None:
            seen.append(model.vector.detach().clone())
        optimizer.zero_grad()
        loss = model.vector @ gradient
        loss.backward()
        return loss

    optimizer.step(closure)


@functools.cache
def leftover(lmbda, regime):
    """How much of the full gradient f is left in F-SAM's d, and how far m is from f, as parts of its length.

    With σ = 1 d is g_t − m_{t−1}, but for a factor: the minibatch's own part g_t − f_t, and f_t − m_{t−1}, which is what
    is left. The first half of the steps is not counted.
    """
    pairs = list(REGIMES[regime]())
    counted = [
        torch.stack([(f - before).square().sum(), (f - after).square().sum(), f.square().sum()])
        for (f, _), (before, after) in zip(pairs, averages(lmbda, [g for _, g in pairs]), strict=True)
    ]
    left, away, length = torch.stack(counted[len(pairs) // 2 :]).sum(0).sqrt().tolist()
    return left / length, away / length


@pytest.mark.parametrize("lmbda", [0.2, 0.9, "auto"])
def test_f_sam_climbs_along_the_error_of_the_average_before(lmbda):
    """At σ = 1 ε = ρ e/‖e‖ with e = g_t − m_{t−1}, whatever λ is: so the error of m_{t−1} is the measure of λ."""
    gradients = [g for _, g in drifting_gradients(0.05, 1.0, steps=6)]
    model, seen = Vector(torch.zeros(2000)), []
    optimizer = optimizers.FSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, lmbda=lmbda)
    for g in gradients[:-1]:
        follow(optimizer, model, g)
    error = gradients[-1] - torch.cat([optimizer.state[p]["gradient_average"] for p in model.parameters()])
    follow(optimizer, model, gradients[-1], seen)
    torch.testing.assert_close(seen[1] - seen[0], 0.1 * error / error.norm(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("regime", REGIMES)
def test_automatic_average_is_as_good_as_the_best_fixed_one(regime):
    """From gradients that have settled to gradients that turn within two steps: within 2 % of the best fixed λ each time,
    while each fixed λ is at least 20 % off somewhere (next test)."""
    assert leftover("auto", regime)[0] < 1.02 * min(leftover(lmbda, regime)[0] for lmbda in FIXED)


@pytest.mark.parametrize("lmbda", FIXED)
def test_no_fixed_average_is_right_for_both(lmbda):
    """Settled under noise that is as long as the gradient; turning by a twentieth a step with little noise."""
    ratios = [leftover(lmbda, regime)[0] / leftover("auto", regime)[0] for regime in ("settled", "turning slowly")]
    assert max(ratios) > 1.2


@pytest.mark.parametrize("regime", [regime for regime in REGIMES if "two steps" not in regime])
def test_automatic_average_is_near_the_full_gradient_too(regime):
    """m_t itself is within 5 % of the best fixed one, but where the gradient turns within two steps (next test)."""
    assert leftover("auto", regime)[1] < 1.05 * min(leftover(lmbda, regime)[1] for lmbda in FIXED)


def test_a_gradient_that_turns_within_two_steps_outruns_every_average():
    """Then d keeps nearly all of it with any λ. A small λ brings m_t, which holds g_t, nearer to it, but d no further."""
    regime = "turning within two steps"
    left = [leftover(lmbda, regime)[0] for lmbda in ("auto", *FIXED)]
    assert 0.9 < min(left) < max(left) < 1.05
    assert leftover(0.2, regime)[1] < 0.35
    assert leftover("auto", regime)[1] > 0.5
    assert leftover("auto", regime)[0] < leftover(0.2, regime)[0]


def test_automatic_average_follows_a_change_of_regime():
    """From settled to turning and back: the gain 1 − λ goes to what each wants within some tens of steps."""
    model = Vector(torch.zeros(2000))
    optimizer = optimizers.FSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, lmbda="auto")
    gains = []
    for turn, noise in ((0.002, 1.0), (0.2, 0.3), (0.002, 1.0)):
        for _, minibatch in drifting_gradients(turn, noise, steps=200):
            follow(optimizer, model, minibatch)
            gains.append(float(optimizer.direction.gain[0]))
    settled, turning, again = (statistics.mean(gains[start : start + 100]) for start in (100, 300, 500))
    assert settled < 0.1
    assert turning > 0.6
    assert again < 0.1


def test_a_gradient_that_is_not_finite_teaches_the_average_nothing():
    model = Vector(torch.zeros(2000))
    optimizer = optimizers.FSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, lmbda="auto")
    for _, minibatch in drifting_gradients(0.05, 1.0, steps=10):
        follow(optimizer, model, minibatch)
    before = copy.deepcopy([optimizer.direction.gain[0], *map(dict, optimizer.state.values())])
    follow(optimizer, model, minibatch.clone().index_fill_(0, torch.tensor([5]), torch.inf))
    assert same([optimizer.direction.gain[0], *map(dict, optimizer.state.values())], before)
    assert optimizer.skipped_ascents == 1


def test_f_sam_leaves_the_full_gradient_out_of_the_perturbation():
    """cos(d, full gradient) ≈ 0 for a settled gradient; feeding the average with d instead leaves about half of it."""
    pairs = list(drifting_gradients(0.0005, 3.0))
    cosines, halves, other = [], [], torch.zeros(2000)
    for (f, g), (_, m) in zip(pairs, averages(0.95, [g for _, g in pairs]), strict=True):
        cosines.append(abs(float(torch.cosine_similarity(g - m, f, dim=0))))
        other = 0.95 * other + 0.05 * (g - other)
        halves.append(float((g - other) @ f / f.square().sum()))
    assert statistics.mean(cosines[120:]) < 0.05
    assert statistics.mean(halves[120:]) == pytest.approx(0.5, abs=0.1)

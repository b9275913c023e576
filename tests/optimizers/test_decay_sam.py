"""Decay SAM against its recursion, written out on one vector in float64."""

import math

import pytest
import torch
from optimizer_problems import BASES, LogisticBatches, Recursion, unit

from optimizers import DecaySAM

STEPS = 60


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_decay_sam_is_its_recursion(base, fraction):
    """Warm-up from zero for ten steps, then a cosine: climbs begin in the tail and go on, and are counted."""
    problem, recursion = LogisticBatches(), Recursion(base)
    model = problem.model()
    optimizer = DecaySAM(BASES[base](list(model.parameters())), rho=0.1, fraction=fraction)
    w, climbs, largest = problem.start.clone(), [], 0.0
    for batch in range(STEPS):
        rate = 0.05 * (batch / 10 if batch < 10 else 0.5 + 0.5 * math.cos(math.pi * (batch - 10) / (STEPS - 10)))
        recursion.lr = optimizer.param_groups[0]["lr"] = rate
        before = optimizer.gradient_evaluations
        optimizer.step(problem.closure(model, batch))
        largest = max(largest, rate)
        climbs.append(largest > 0 and rate <= fraction * largest)
        assert optimizer.gradient_evaluations - before == 1 + climbs[-1]
        g = problem.gradient(w, batch)
        w = recursion.step(w, problem.gradient(w + 0.1 * unit(g), batch) if climbs[-1] else g)
        torch.testing.assert_close(model.vector.detach(), w, rtol=0, atol=1e-10)
    first = climbs.index(True)
    assert climbs == [False] * first + [True] * (STEPS - first)
    assert first == (1 if fraction == 1 else 42)


def test_each_group_has_its_peak_and_a_later_one_starts_with_its_own():
    one, two = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = DecaySAM(torch.optim.SGD([one], lr=1.0), fraction=0.5)

    def gradients():
        before = optimizer.gradient_evaluations

        def closure():
            optimizer.zero_grad()
            loss = one.square().sum() + two.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return optimizer.gradient_evaluations - before

    assert gradients() == 1
    optimizer.add_param_group({"params": [two], "lr": 0.1})
    assert gradients() == 1  # low beside the other's, but not beside its own
    optimizer.param_groups[1]["lr"] = 0.05
    assert gradients() == 2

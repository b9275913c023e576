"""Sparse SAM against its recursion, written out on one vector in float64."""

import pytest
import torch
from optimizer_problems import BASES, LogisticBatches, Recursion, unit

from optimizers import Momentum, SharpnessAware, create
from optimizers.ssam import Sparse

STEPS = 60


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("fraction", "kept"), [(0.5, 3), (1 / 6, 1), (1.0, 6)])
def test_ssam_is_its_recursion(base, fraction, kept):
    """λ = 0.8, a new mask on the first of every 7 steps; the unused entries are where they were, and ‖ε‖ = ρ."""
    problem, recursion = LogisticBatches(), Recursion(base)
    model = problem.model()
    optimizer = SharpnessAware(
        BASES[base](list(model.parameters())), rho=0.1, metric=Sparse(fraction=fraction, every=7, lmbda=0.8)
    )
    w, fisher, mask = problem.start.clone(), None, None
    for batch in range(STEPS):
        optimizer.step(problem.closure(model, batch))
        g = problem.gradient(w, batch)
        fisher = g**2 if fisher is None else 0.8 * fisher + 0.2 * g**2
        if batch % 7 == 0:
            mask = torch.zeros_like(w)
            mask[fisher.argsort(descending=True)[:kept]] = 1
        w = recursion.step(w, problem.gradient(w + 0.1 * unit(mask * g), batch))
        torch.testing.assert_close(model.vector.detach(), w, rtol=0, atol=1e-10)
        epsilon = torch.cat(optimizer.perturbation())
        assert int((epsilon != 0).sum()) == kept
        assert float(epsilon.norm()) == pytest.approx(0.1)


def test_a_direction_that_looks_at_no_gradient_teaches_nothing_and_is_refused():
    parameters = [torch.nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match="expected a direction that needs them"):
        SharpnessAware(torch.optim.SGD(parameters, lr=0.1, momentum=0.9), direction=Momentum(), metric=Sparse())


def test_the_method_hands_its_options_on():
    optimizer = create("ssam", torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), fraction=0.25, every=3)
    assert (optimizer.metric.fraction, optimizer.metric.every) == (0.25, 3)

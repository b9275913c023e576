"""Eigen-SAM against its recursion, written out on one vector in float64 with the Hessian as a formula."""

import pytest
import torch
from optimizer_problems import BASES, LogisticBatches, Recursion, unit

from optimizers import EigenSAM

STEPS = 60


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("alpha", "p"), [(0.2, 1), (0.7, 7), (0.0, 5)])
def test_eigen_sam_is_its_recursion(base, alpha, p):
    problem, recursion = LogisticBatches(), Recursion(base)
    model = problem.model()
    optimizer = EigenSAM(BASES[base](list(model.parameters())), rho=0.1, alpha=alpha, p=p)
    w, v = problem.start.clone(), None
    for batch in range(STEPS):
        optimizer.step(problem.closure(model, batch))
        g = unit(problem.gradient(w, batch))
        if batch % p == 0:
            v = unit(problem.hessian(w, batch) @ (g if v is None else v))
        d = g + alpha * (v @ g).sign() * (v - (v @ g) * g)
        w = recursion.step(w, problem.gradient(w + 0.1 * unit(d), batch))
        torch.testing.assert_close(model.vector.detach(), w, rtol=0, atol=1e-10)
    assert optimizer.gradient_evaluations == 2 * STEPS + 2 * -(-STEPS // p)


def test_v_becomes_the_top_eigenvector():
    """On one batch and with weights that stay."""
    problem = LogisticBatches()
    model = problem.model()
    optimizer = EigenSAM(torch.optim.SGD(model.parameters(), lr=0.0), p=1)
    for _ in range(200):
        optimizer.step(problem.closure(model, 0))
    v = torch.cat([optimizer.state[parameter]["eigenvector"] for parameter in model.parameters()])
    top = torch.linalg.eigh(problem.hessian(problem.start, 0)).eigenvectors[:, -1]
    assert float((v @ top).abs()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("maximize", [False, True])
def test_a_product_that_is_not_finite_leaves_v_as_it_was(maximize):
    problem = LogisticBatches()
    model = problem.model()
    optimizer = EigenSAM(torch.optim.SGD(model.parameters(), lr=0.01, maximize=maximize), p=1)
    optimizer.step(problem.closure(model, 0))
    before = [optimizer.state[parameter]["eigenvector"].clone() for parameter in model.parameters()]
    closure = problem.closure(model, 1)
    closure.hessian_product = lambda parameters, vectors: [torch.full_like(vector, torch.nan) for vector in vectors]
    optimizer.step(closure)
    after = [optimizer.state[parameter]["eigenvector"] for parameter in model.parameters()]
    assert all(map(torch.equal, before, after))
    assert optimizer.skipped_ascents == 1


def test_parts_of_a_batch_cost_what_the_batch_costs():
    problem = LogisticBatches()
    model = problem.model()
    optimizer = EigenSAM(torch.optim.SGD(model.parameters(), lr=0.01), p=2, m=4)
    for batch in range(3):
        optimizer.step(problem.closure(model, batch))
    assert optimizer.gradient_evaluations == 2 * 3 + 2 * 2

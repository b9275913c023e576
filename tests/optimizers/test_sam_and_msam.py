"""SAM and MSAM against their papers' recursions written out on a vector, in float64, over three bases."""

import pytest
import torch
from optimizer_problems import BASES, PROBLEMS, Problem, Recursion, trajectory, unit
from optimizer_training import Smooth, same
from torch import nn

from optimizers import MSAM, SAM, BatchClosure

STEPS = 50


def sam_recursion(base: str, problem: Problem, rho: float) -> torch.Tensor:
    w, recursion, path = problem.start.clone(), Recursion(base), []
    for batch in range(STEPS):
        g = problem.gradient(w, batch)
        w = recursion.step(w, problem.gradient(w + rho * unit(g), batch))
        path.append(w)
    return torch.stack(path)


def msam_recursion(base: str, problem: Problem, rho: float) -> torch.Tensor:
    w, recursion, path = problem.start.clone(), Recursion(base), []
    for batch in range(STEPS):
        epsilon = torch.zeros_like(w) if recursion.first is None else -rho * unit(recursion.first)
        w = recursion.step(w, problem.gradient(w + epsilon, batch))
        path.append(w)
    return torch.stack(path)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("base", BASES)
def test_sam_is_its_recursion(base, problem):
    problem = PROBLEMS[problem]()
    expected = sam_recursion(base, problem, 0.1)
    # rounding differs only in the order of sums: 50 steps of a stable recursion stay within 1e-12
    torch.testing.assert_close(
        trajectory(lambda b: SAM(b, rho=0.1), base, problem, STEPS), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("rho", [0.5, -0.5])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("base", BASES)
def test_msam_is_its_recursion_for_both_signs(base, problem, rho):
    problem = PROBLEMS[problem]()
    expected = msam_recursion(base, problem, rho)
    torch.testing.assert_close(
        trajectory(lambda b: MSAM(b, rho=rho), base, problem, STEPS), expected, rtol=0, atol=1e-12
    )


def test_the_two_differ_from_their_base():
    problem = PROBLEMS["logistic"]()
    plain, sam, msam = (
        trajectory(make, "sgd", problem, STEPS)[-1]
        for make in (lambda b: SAM(b, rho=0.0), lambda b: SAM(b, rho=0.1), lambda b: MSAM(b, rho=0.5))
    )
    assert (plain - sam).norm() > 1e-3
    assert (plain - msam).norm() > 1e-3


@pytest.mark.parametrize("maximize", [False, True])
def test_weight_decay_at_the_perturbed_weights_has_the_sign_of_the_loss(maximize):
    finals = []
    for sign in {1.0, -1.0 if maximize else 1.0}:
        torch.manual_seed(0)
        model = Smooth()
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, maximize=sign < 0)
        optimizer = MSAM(base, rho=1.0, weight_decay_at="perturbed")
        for step in range(4):
            random = torch.Generator().manual_seed(step)
            x, y = torch.randn(16, 5, generator=random), torch.randint(0, 3, (16,), generator=random)
            optimizer.step(
                BatchClosure(model, lambda out, y, sign=sign: sign * nn.functional.cross_entropy(out, y), x, y)
            )
        finals.append([p.detach().clone() for p in model.parameters()])
    assert same(finals[0], finals[-1])

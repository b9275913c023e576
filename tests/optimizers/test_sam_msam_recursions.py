"""SAM and MSAM against their papers' recursions written out on a vector, in float64, over three bases."""

import pytest
import torch
from optimizer_problems import BASES, PROBLEMS, Problem, Recursion, trajectory, unit

from optimizers import MSAM, SAM

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

"""SAMPa against its recursion, written out on one vector in float64."""

import pytest
import torch
from optimizer_problems import BASES, PROBLEMS, LogisticBatches, Recursion, trajectory, unit

from optimizers import SAMPa, create

STEPS = 60


def auxiliary(recursion, w, last):
    """y_{t+1}: with SGD's decay and momentum as in the authors' code (y_1 = x_0), without as the paper prints it."""
    if recursion.t == 0 or recursion.name == "adamw":
        return w - recursion.lr * last
    velocity = torch.zeros_like(w) if recursion.first is None else recursion.first
    return w - recursion.lr * (last + recursion.weight_decay * w + recursion.momentum * velocity)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("lmbda", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("base", BASES)
def test_sampa_is_its_recursion(base, lmbda, problem):
    problem, recursion = PROBLEMS[problem](), Recursion(base)
    found = trajectory(lambda inner: SAMPa(inner, rho=0.1, lmbda=lmbda), base, problem, STEPS)
    x, last = problem.start.clone(), torch.zeros_like(problem.start)
    for batch in range(STEPS):
        at_y = problem.gradient(auxiliary(recursion, x, last), batch)
        at_x = problem.gradient(x + 0.1 * unit(last), batch)
        x, last = recursion.step(x, (1 - lmbda) * at_x + lmbda * at_y), at_y
        torch.testing.assert_close(found[batch], x, rtol=0, atol=1e-12)


def test_without_momentum_and_decay_it_is_the_printed_recursion():
    """x̃ = x + ρ ∇f(y)/‖∇f(y)‖, y ← x − η ∇f(y), x ← x − η(1−λ) ∇f(x̃) − ηλ ∇f(y)."""
    problem = LogisticBatches()
    model = problem.model()
    optimizer = SAMPa(torch.optim.SGD(model.parameters(), lr=0.5), rho=0.1)
    x, last = problem.start.clone(), torch.zeros_like(problem.start)
    for batch in range(STEPS):
        optimizer.step(problem.closure(model, batch))
        perturbed, y = x + 0.1 * unit(last), x - 0.5 * last
        last = problem.gradient(y, batch)
        x = x - 0.5 * 0.8 * problem.gradient(perturbed, batch) - 0.5 * 0.2 * last
        torch.testing.assert_close(model.vector.detach(), x, rtol=0, atol=1e-12)
    assert optimizer.gradient_evaluations == 2 * STEPS


def test_neither_gradient_of_a_step_waits_for_the_other():
    """Both points are functions of what is known when the step begins: whatever the first gradient, the second is there."""
    visited = []
    for scale in (1.0, -3.0):
        problem = LogisticBatches()
        model = problem.model()
        optimizer = create("sampa", torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for batch in range(3):
            optimizer.step(problem.closure(model, batch))
        points = []

        def closure(problem=problem, model=model, optimizer=optimizer, points=points, scale=scale):
            points.append(model.vector.detach().clone())
            loss = problem.closure(model, 3)()
            if len(points) == 1:
                for parameter in model.parameters():
                    parameter.grad.mul_(scale)
            return loss

        optimizer.step(closure)
        visited.append(torch.stack(points))
    assert torch.equal(*visited)
    assert not torch.equal(visited[0][0], visited[0][1])


def test_gradients_gathered_at_the_weights_are_taken_anew_at_y():
    """A trainer that accumulates by itself has them at x; the step is the same."""
    problem, finals = LogisticBatches(), []
    for gathered in (False, True):
        model = problem.model()
        optimizer = SAMPa(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.1)
        for batch in range(5):
            closure = problem.closure(model, batch)
            if gathered:
                closure()
                optimizer.step(None, again=closure)
            else:
                optimizer.step(closure)
        finals.append(model.vector.detach())
    torch.testing.assert_close(*finals, rtol=0, atol=1e-14)

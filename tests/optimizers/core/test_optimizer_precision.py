"""Small gradients in half precision, infinite ones in every metric, and losses that are maximised."""

import pytest
import torch
from expectations import euclidean, expected
from optimizer_training import BASES, PERTURBING, Smooth, create, over_methods, same
from torch import nn

import optimizers
from optimizers.core import norms

METRICS = {
    "Euclidean": optimizers.Euclidean, "PerTensor": optimizers.PerTensor, "Unnormalized": optimizers.Unnormalized,
    "Adaptive": optimizers.Adaptive, "Proportional": optimizers.Proportional,
    "RandomTensors": optimizers.RandomTensors, "Ball": lambda: optimizers.Ball(float("inf")),
    "Only": lambda: optimizers.Only(lambda module, name: True),
}  # fmt: skip


def batch(number, dtype=torch.float32):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(16, 5, generator=generator).to(dtype), torch.randint(0, 3, (16,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@over_methods
def test_a_small_gradient_is_climbed_along_in_half_precision(method, dtype):
    """Gradients of 1e-6 and less: ρ/‖g‖ exceeds float16, products of two such numbers fall below it; neither is formed."""
    torch.manual_seed(0)
    model = Smooth().to(dtype)
    optimizer = create(method, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))
    for step in range(7):
        optimizer.step(
            optimizers.BatchClosure(
                model, lambda out, y: 1e-5 * nn.functional.cross_entropy(out.float(), y), *batch(step, dtype)
            )
        )
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert optimizer.skipped_ascents == 0
    own = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    assert all(tensor.isfinite().all() for tensor in own)
    if method not in PERTURBING or expected(method).length is not euclidean:
        return
    epsilon = torch.cat([e.flatten().float() for e in optimizer.perturbation()])
    assert float(epsilon.norm()) == pytest.approx(optimizer.param_groups[0]["rho"], rel=5e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_and_products_have_the_range_of_float32_at_least(dtype):
    for size in (1e-7, 1e-3, 1e3):
        tensors = [torch.full((8,), size, dtype=dtype), torch.full((4, 2), -size, dtype=dtype)]
        true = [tensor.double() for tensor in tensors]
        square = sum(float(tensor.square().sum()) for tensor in true)
        assert float(norms.dot(tensors, tensors, tensors)) == pytest.approx(square, rel=1e-5)
        assert float(norms.norm(tensors, tensors)) == pytest.approx(square**0.5, rel=1e-5)
    assert float(norms.inverse(torch.tensor(1e-45))) == 0.0


@pytest.mark.parametrize("size", [float("inf"), float("nan"), 1e-43])
@pytest.mark.parametrize("metric", METRICS)
def test_no_metric_climbs_along_what_is_not_finite(metric, size):
    """Nor divides by a length that vanishes; the descent is that of the base, and what was skipped is counted."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    options = {"direction": optimizers.Climb(steps=1)} if metric == "Ball" else {}
    optimizer = optimizers.SharpnessAware(
        torch.optim.SGD(model.parameters(), lr=0.0), rho=0.5, metric=METRICS[metric](), **options
    )
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append([p.detach().clone() for p in model.parameters()])
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, size) if size == 1e-43 else torch.ones_like(parameter)
        if size != 1e-43:
            model[0].weight.grad[1, 2] = size
        return torch.zeros(())

    optimizer.step(closure)
    if size != 1e-43:
        assert same(*seen)
        assert optimizer.skipped_ascents == 1
    assert all(w.isfinite().all() for w in seen[1])


@pytest.mark.parametrize("base", ["sgd", "nesterov", "adamw"])
@over_methods
def test_maximising_the_negative_loss_is_minimising_the_loss(method, base):
    """To the bit: ε turns with the gradient, but momenta, which hold the sign of the steps, are not turned twice."""
    finals = []
    for sign in (1.0, -1.0):
        torch.manual_seed(0)
        model = Smooth()
        optimizer = create(method, BASES[base](model.parameters(), maximize=sign < 0))
        for step in range(7):
            optimizer.step(
                optimizers.BatchClosure(
                    model,
                    lambda out, y, sign=sign: sign * nn.functional.cross_entropy(out, y),
                    *batch(step),
                )
            )
        finals.append([p.detach().clone() for p in model.parameters()] + [e.abs() for e in optimizer.perturbation()])
    assert same(*finals)


def test_the_ascent_of_a_maximised_loss_lowers_it():
    model = nn.Linear(3, 1)
    x = torch.randn(8, 3)
    optimizer = optimizers.SAM(torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), rho=0.1)
    values = []

    def closure():
        optimizer.zero_grad()
        loss = -(model(x) - 1).square().mean()
        loss.backward()
        values.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    assert values[1] < values[0]


BASES_THAT_ARE_NONE = {
    "LBFGS": (lambda p: torch.optim.LBFGS(p), "whose step needs closure: it evaluates the loss itself"),
    "SAM": (lambda p: optimizers.SAM(torch.optim.SGD(p, lr=0.1)), "knows nothing of perturbations, got SAM"),
    "a class": (lambda p: torch.optim.SGD, "expected an optimizer instance"),
}


@pytest.mark.parametrize("base", BASES_THAT_ARE_NONE)
@over_methods
def test_a_base_that_cannot_be_wrapped_is_refused_at_once(method, base):
    make, reason = BASES_THAT_ARE_NONE[base]
    with pytest.raises(TypeError, match=reason):
        create(method, make(nn.Linear(3, 2).parameters()))

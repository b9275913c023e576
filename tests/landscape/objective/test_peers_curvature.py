"""The problems that curvlinops (test/cases.py) and pytorch-hessian-eigenthings (tests/) try their matrices on, set anew.

Truth is a dense double backward in float64 through all the data in one batch, and closed forms where there are some;
curvlinops itself is a witness where it is installed. Its sums are our means times the number of terms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape.objective.objective import Objective

f64 = torch.float64


class FromMapping(nn.Module):
    """Takes one mapping, as it is."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.net = perceptron(10, outputs)

    def forward(self, data: Any) -> Tensor:
        return self.net(data["x"])


class OverPositions(nn.Module):
    """The same network at every position of (N, positions, features); classes come first, as cross-entropy has them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).movedim(-1, 1)


def perceptron(inputs: int, outputs: int, kink: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 5), nn.ReLU() if kink else nn.Tanh(), nn.Linear(5, outputs))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    )


@dataclass
class Case:
    model: Callable[[], nn.Module]
    loss: type[nn.Module]
    inputs: tuple[int, ...]  # of one example
    targets: tuple[int, ...]  # of one example
    rows: tuple[int, ...]  # of the batches
    mapping: bool = False
    classes: int = 3

    def batches(self) -> list[tuple[Any, Tensor]]:
        torch.manual_seed(0)
        found = []
        for rows in self.rows:
            x = torch.rand(rows, *self.inputs, dtype=f64)
            if self.loss is nn.CrossEntropyLoss:
                y = torch.randint(self.classes, (rows, *self.targets))
            elif self.loss is nn.BCEWithLogitsLoss:
                y = torch.randint(2, (rows, *self.targets)).to(f64)
            else:
                y = torch.rand(rows, *self.targets, dtype=f64)
            found.append(({"x": x} if self.mapping else x, y))
        return found


CE, BCE, MSE = nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MSELoss
CASES = {
    "classes": Case(lambda: perceptron(10, 3), CE, (10,), (), (3, 4)),
    "one logit": Case(lambda: perceptron(10, 1), BCE, (10,), (1,), (3, 4)),
    "two logits": Case(lambda: perceptron(10, 2), BCE, (10,), (2,), (3, 4)),
    "regression": Case(lambda: perceptron(8, 3), MSE, (8,), (3,), (2, 6)),
    "mapping, classes": Case(lambda: FromMapping(3), CE, (10,), (), (3, 4), mapping=True),
    "mapping, logit": Case(lambda: FromMapping(1), BCE, (10,), (1,), (3, 4), mapping=True),
    "mapping, regression": Case(lambda: FromMapping(2), MSE, (10,), (2,), (3, 4), mapping=True),
    "classes at positions": Case(OverPositions, CE, (5, 10), (5,), (3, 4)),
    "logits at positions": Case(lambda: perceptron(10, 2), BCE, (5, 10), (5, 2), (3, 4)),
    "regression at positions": Case(lambda: perceptron(8, 3), MSE, (5, 8), (5, 3), (2, 6)),
    "convolutions": Case(convnet, CE, (1, 10, 10), (), (5, 5), classes=4),
    "small, regression": Case(lambda: perceptron(3, 2, False), MSE, (3,), (2,), (4, 4)),  # hessian-eigenthings'
    "small, classes": Case(lambda: perceptron(3, 4, False), CE, (3,), (), (8,), classes=4),
}


def problem(name: str) -> tuple[nn.Module, nn.Module, list[tuple[Any, Tensor]], Tensor, Tensor]:
    """Model, mean loss, batches, and all inputs and targets in one batch."""
    case = CASES[name]
    torch.manual_seed(1)
    model, batches = case.model().double(), case.batches()
    x = torch.cat([x["x"] if case.mapping else x for x, _ in batches])
    return model, case.loss(), batches, ({"x": x} if case.mapping else x), torch.cat([y for _, y in batches])


def ours(name: str, **options: Any) -> Objective:
    model, loss, batches, *_ = problem(name)
    wrapped = [((x,), y) if isinstance(x, dict) else (x, y) for x, y in batches]  # an argument, not arguments
    return Objective(model, loss, wrapped, **options)


def dense_hessian(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([block.flatten() for block in gradient])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True) for g in flat]
    return torch.stack([torch.cat([block.flatten() for block in row]) for row in rows])


def dense_jacobian(outputs: Tensor, parameters: list[Tensor]) -> Tensor:
    rows = [torch.autograd.grad(f, parameters, retain_graph=True, materialize_grads=True) for f in outputs.flatten()]
    return torch.stack([torch.cat([block.flatten() for block in row]) for row in rows])


def dense_ggn(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Any, y: Tensor) -> Tensor:
    """Jᵀ ∇²ℓ J of all the data, every factor dense."""
    outputs = model(x)
    jacobian = dense_jacobian(outputs, list(model.parameters()))
    flat = outputs.detach().flatten().requires_grad_()
    curvature = dense_hessian(loss(flat.view_as(outputs), y), [flat])
    return jacobian.T @ curvature @ jacobian


@pytest.mark.parametrize("name", CASES)
def test_value_gradient_hessian_and_gauss_newton_of_every_case(name: str) -> None:
    model, loss, _, x, y = problem(name)
    objective, parameters = ours(name), list(model.parameters())
    value = loss(model(x), y)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)])
    torch.testing.assert_close(objective(), value.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(objective.gradient(), gradient, rtol=1e-11, atol=1e-14)
    hessian, ggn = dense_hessian(value, parameters), dense_ggn(model, loss, x, y)
    v, block = torch.randn(objective.size, dtype=f64), torch.randn(objective.size, 9, dtype=f64)
    for operator, dense in ((objective.hessian(), hessian), (objective.ggn(), ggn)):
        torch.testing.assert_close(operator.dense(), dense, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(operator @ v, dense @ v, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(operator @ block, dense @ block, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(torch.as_tensor(operator.to_scipy() @ v.numpy()), dense @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_fisher_matrices_of_every_case(name: str) -> None:
    model, loss, _, x, y = problem(name)
    objective = ours(name)
    outputs = model(x)
    entries = outputs[0].numel()
    scale = entries / 2 if CASES[name].loss is MSE else 1.0  # unit variance, summed over an example's outputs
    expected = scale * dense_ggn(model, loss, x, y)
    torch.testing.assert_close(objective.fisher().dense(), expected, rtol=1e-9, atol=1e-12)
    rows = [
        torch.autograd.grad(loss(f[None], t[None]), list(model.parameters()), retain_graph=True)
        for f, t in zip(outputs, y, strict=True)
    ]
    g = torch.stack([torch.cat([block.flatten() for block in row]) for row in rows])
    torch.testing.assert_close(objective.fisher(kind="empirical").dense(), g.T @ g / len(y), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_against_curvlinops(name: str, reduction: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    case, (model, _, batches, _, y) = CASES[name], problem(name)
    loss = case.loss(reduction=reduction)
    if reduction == "sum":
        with pytest.raises(ValueError, match='use reduction="mean"'):
            Objective(model, loss, batches)
    objective = ours(name)
    terms = y.numel() if reduction == "sum" else 1
    arguments = (model, loss, list(model.parameters()), batches)
    options = {"check_deterministic": False, "batch_size_fn": lambda x: len(x["x"] if case.mapping else x)}
    v = torch.randn(objective.size, dtype=f64)
    for theirs, operator in (
        (curvlinops.HessianLinearOperator, objective.hessian()),
        (curvlinops.GGNLinearOperator, objective.ggn()),
    ):
        found = theirs(*arguments, **options) @ v
        torch.testing.assert_close(terms * (operator @ v), found, rtol=1e-9, atol=1e-12)
    if reduction == "mean" and "positions" not in name:  # there a position is an example, here a row is one
        factor = 1 if case.loss is CE else y[0].numel()  # they take the sum over outputs where we take the mean
        found = curvlinops.EFLinearOperator(*arguments, **options) @ v
        torch.testing.assert_close(factor * (objective.fisher(kind="empirical") @ v), found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["classes", "two logits", "regression"])
def test_curvlinops_sampled_fisher_tends_to_ours(name: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    model, loss, batches, _, y = problem(name)
    objective = ours(name)
    sampled = curvlinops.FisherMCLinearOperator(
        model, loss, list(model.parameters()), batches, check_deterministic=False, mc_samples=20_000
    )
    v = torch.randn(objective.size, dtype=f64)
    factor = 2 / y.shape[1] if name == "regression" else 1.0
    mine = factor * (objective.fisher() @ v)
    assert (sampled @ v - mine).norm() < 0.05 * mine.norm()  # 20,000 draws of each label


@pytest.mark.parametrize("kind", ["dropout", "shuffled", "last batch dropped"])
def test_what_curvlinops_calls_not_deterministic(kind: str) -> None:
    data = TensorDataset(torch.rand(12, 10), torch.randint(2, (12,)))
    size = 5 if kind == "last batch dropped" else 3
    loader = DataLoader(data, batch_size=size, shuffle=kind != "dropout", drop_last=size == 5)
    norm = nn.Dropout() if kind == "dropout" else nn.BatchNorm1d(5)
    model = nn.Sequential(nn.Linear(10, 5), norm, nn.ReLU(), nn.Linear(5, 2))
    for call in (Objective.__call__, Objective.gradient, Objective.hessian, Objective.ggn, Objective.fisher):
        with pytest.raises(ValueError, match="training mode" if kind == "dropout" else "shuffle=False"):
            call(Objective(model, nn.CrossEntropyLoss(), loader, mode="unchanged" if kind == "dropout" else "eval"))


@pytest.mark.parametrize("loss", [MSE, BCE, CE])
def test_models_that_are_linear_in_their_parameters_in_closed_form(loss: type[nn.Module]) -> None:
    """Hessian and Gauss–Newton agree; no automatic differentiation on this side."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3 if loss is CE else 1, bias=False).double()
    x = torch.randn(16, 5, dtype=f64)
    y = torch.randint(3, (16,)) if loss is CE else torch.randint(2, (16, 1)).to(f64)
    with torch.no_grad():
        if loss is MSE:
            inner = torch.full((16, 1, 1), 2.0, dtype=f64)
        elif loss is BCE:
            p = model(x).sigmoid()
            inner = (p * (1 - p))[:, :, None]
        else:
            p = model(x).softmax(1)
            inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("iab,ic,id->acbd", inner, x, x).reshape(model.weight.numel(), -1) / 16
    objective = Objective(model, loss(), list(zip(x.split((7, 9)), y.split((7, 9)), strict=True)))
    for operator in (objective.hessian(), objective.ggn()):
        torch.testing.assert_close(operator.dense(), expected, rtol=1e-11, atol=1e-14)


def test_parts_of_the_parameters_and_of_the_batches() -> None:
    """What eigenthings' param_filter and microbatch_size do."""
    whole = ours("small, regression")
    full = whole.hessian().dense()
    part = whole.restricted("2")
    rows = whole.space.indices(part.space)
    torch.testing.assert_close(part.hessian().dense(), full[rows][:, rows], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(ours("small, regression", micro_batch=3).hessian().dense(), full, rtol=1e-9, atol=1e-13)
    halves = [whole.on([batch]).hessian().dense() for batch in whole.batches]
    torch.testing.assert_close(sum(halves) / 2, full, rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="expected a vector of shape"):
        whole.hessian() @ torch.zeros(whole.size + 1, dtype=f64)
    fisher = whole.fisher(kind="empirical")
    assert (torch.linalg.eigvalsh(fisher.dense()) > -1e-12).all()

"""A model that drops activations and computes them again in its backward pass is the same function as one that does not.

Activations are computed again from the parameters that the model holds at that time: displaced ones must still be there.
"""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from analyses import directional_sharpness, m_sharpness, psf, top_eigenvalues
from landscape.objective.objective import Objective

CALLS = {
    "value": lambda o, theta, v: o(theta),
    "values": lambda o, theta, v: o(torch.stack([theta, o.theta])),
    "gradient": lambda o, theta, v: o.gradient(theta),
    "hessian": lambda o, theta, v: o.hessian(theta) @ v,
    "hessian, many": lambda o, theta, v: o.hessian(theta) @ torch.stack([v + i for i in range(9)], 1),
    "hessian, retained": lambda o, theta, v: _twice(o.hessian(theta, way="retained"), v),
    "hessian, recomputed": lambda o, theta, v: _twice(o.hessian(theta, way="recomputed"), v),
    "finite differences": lambda o, theta, v: o.hessian(theta, way="finite differences") @ v,
    "ggn": lambda o, theta, v: _twice(o.ggn(theta), v),
    "fisher": lambda o, theta, v: _twice(o.fisher(theta), v),
    "empirical fisher": lambda o, theta, v: _twice(o.fisher(theta, kind="empirical"), v),
    "restricted": lambda o, theta, v: _twice(o.restricted("first").hessian(theta[:42]), v[:42]),
}


def _twice(operator: object, v: Tensor) -> Tensor:
    """The second product goes through graphs that were kept, after the model got its own parameters back."""
    return torch.stack([operator @ v, operator @ v])


class Network(nn.Module):
    """The activations of the middle are dropped, in one of the ways that models do it; with norms and dropout."""

    def __init__(self, dropping: str | None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.second, self.head, self.dropping = nn.Linear(6, 5), nn.Linear(5, 3), dropping
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = nn.Sequential(self.first, nn.Tanh(), self.norm, self.drop, self.second, nn.Tanh())
        if self.dropping is None:
            return self.head(parts(x))
        if self.dropping == "sequential":
            return self.head(checkpoint_sequential(parts, 2, x, use_reentrant=False))
        if self.dropping == "nested":
            return self.head(checkpoint(lambda h: checkpoint(parts, h, use_reentrant=False), x, use_reentrant=False))
        return self.head(checkpoint(parts, x, use_reentrant=self.dropping == "reentrant"))


@functools.cache
def problem(dropping: str | None, mode: str) -> Objective:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(17, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (17,), generator=generator)
    model = Network(dropping).double()
    if mode == "unchanged":
        model.eval()
    return Objective(model, nn.CrossEntropyLoss(), [(x[:8], y[:8]), (x[8:], y[8:])], mode=mode)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mode", ["eval", "unchanged"])
@pytest.mark.parametrize("dropping", ["once", "sequential", "nested"])
def test_away_from_the_models_own_parameters(dropping: str, mode: str, call: str) -> None:
    plain, dropped = problem(None, mode), problem(dropping, mode)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(plain.size, generator=generator, dtype=torch.float64)
    theta = plain.theta + 0.3 * torch.randn(plain.size, generator=generator, dtype=torch.float64)
    training = dropped.model.training
    found = CALLS[call](dropped, theta, v)
    torch.testing.assert_close(found, CALLS[call](plain, theta, v), rtol=1e-11, atol=1e-13)
    assert torch.equal(dropped.theta, plain.theta)
    assert dropped.model.training == training


ANALYSES = {
    "sharpness": lambda o: directional_sharpness(o, radii=[0.3], directions=["gradient"]).sharpness,
    "m-sharpness": lambda o: m_sharpness(o, m=[1, 5], rho=0.2, ascent_steps=2).sharpness,
    "eigenvalues": lambda o: top_eigenvalues(o, k=2, tol=1e-9).eigenvalue,
    "psf": lambda o: psf(o, batches=2),
}


@pytest.mark.parametrize("analysis", ANALYSES)
def test_analyses_that_displace_the_parameters(analysis: str) -> None:
    plain, dropped = (ANALYSES[analysis](problem(dropping, "eval")) for dropping in (None, "once"))
    for name, values in (plain.data_vars if hasattr(plain, "data_vars") else {"": plain}).items():
        other = dropped[name] if name else dropped
        torch.testing.assert_close(
            torch.as_tensor(other.values), torch.as_tensor(values.values), rtol=1e-8, atol=1e-12, equal_nan=True
        )


def test_what_cannot_follow_is_refused() -> None:
    reentrant, dropped = problem("reentrant", "eval"), problem("once", "eval")
    assert torch.equal(reentrant(), problem(None, "eval")())
    for call in (reentrant.gradient, reentrant.hessian, reentrant.ggn, reentrant.fisher):
        with pytest.raises(ValueError, match="use_reentrant=False"):
            call()
    for way in ("linearised", "forward over reverse"):
        with pytest.raises(RuntimeError, match='way="retained"'):
            dropped.hessian(way=way) @ dropped.theta
    assert dropped.hessian().way == "recomputed"


def test_a_loss_that_looks_at_the_model_sees_the_parameters_asked_for() -> None:
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))

    def penalised(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target) + model.weight.square().sum()

    penalty = Objective(model, penalised, [(x, y)])
    plain = Objective(model, nn.CrossEntropyLoss(), [(x, y)])
    theta = plain.theta + 1
    torch.testing.assert_close(penalty(theta) - plain(theta), theta[:12].square().sum())
    expected = torch.cat([2 * theta[:12], torch.zeros(3, dtype=torch.float64)])
    torch.testing.assert_close(penalty.gradient(theta) - plain.gradient(theta), expected)

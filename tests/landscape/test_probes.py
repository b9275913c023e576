"""The probes against dense linear algebra: on a quadratic every one of them has a closed form."""

import pytest
import torch
from torch import Tensor, nn

from landscape.probes import NAMES, probe
from optimizers import MSAM, create, first_moment


class Quadratic(nn.Module):
    """L(w) = ½ wᵀ A w."""

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(len(a), dtype=a.dtype))
        self.a = a

    def forward(self) -> Tensor:
        return 0.5 * self.w @ self.a @ self.w


def after_some_steps(steps: int) -> tuple[Quadratic, MSAM, Tensor]:
    root = torch.randn(6, 6, dtype=torch.float64)
    model = Quadratic(root @ root.T)
    optimizer = MSAM(torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9), rho=0.1, weight_decay_at="clean")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return model, optimizer, root @ root.T


@pytest.mark.filterwarnings("ignore:rho")
def test_probes_of_a_quadratic_in_closed_form() -> None:
    model, optimizer, a = after_some_steps(5)
    w = model.w.detach().clone()
    (v,) = first_moment(optimizer)
    g = a @ w
    found = probe(model, model, optimizer, rho_sam=0.2, rho_msam=0.7)
    unit = v / v.norm()
    moved = w - 0.7 * unit
    expected = {
        "l2_psf": (0.2 * a @ (g / g.norm())).norm(),
        "psf_ratio": (0.2 * a @ (g / g.norm())).norm() / g.norm(),
        "momentum_cosine_next_batch": (v @ g) / (v.norm() * g.norm()),
        "momentum_ascent": 0.5 * moved @ a @ moved - 0.5 * w @ a @ w,
    }
    assert set(found) == set(NAMES)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    assert torch.equal(model.w.detach(), w)


@pytest.mark.filterwarnings("ignore:rho")
def test_before_the_first_step_there_is_no_momentum() -> None:
    model, optimizer, _ = after_some_steps(0)
    found = probe(model, model, optimizer, 0.1, 0.1)
    assert found["momentum_cosine_next_batch"].isnan()
    assert found["momentum_ascent"].isnan()
    assert found["l2_psf"] > 0


def test_a_probe_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = create("sam", torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    inputs, targets = torch.randn(16, 4), torch.randint(2, (16,))

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(inputs), targets)

    loss().backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    probe(model, loss, optimizer, 0.1, 0.1)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())


def test_a_failing_loss_leaves_the_weights() -> None:
    model = nn.Linear(3, 1)
    optimizer = create("sam", torch.optim.SGD(model.parameters(), lr=0.1))
    before = [p.detach().clone() for p in model.parameters()]
    calls = 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of memory")
        return model(torch.ones(1, 3)).square().mean()

    with pytest.raises(RuntimeError, match="out of memory"):
        probe(model, loss, optimizer, 0.1, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

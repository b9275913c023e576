"""SAM-ON and norm-only MSAM against recursions written with autograd alone: 100 steps in float64 agree to 1e-10."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers import create

STEPS, LR, MOMENTUM, DECAY, RHO = 100, 0.05, 0.9, 1e-2, 0.5


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3), nn.GroupNorm(1, 3)).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(5)
    return [
        (torch.randn(8, 4, dtype=torch.float64, generator=random), torch.randint(3, (8,), generator=random))
        for _ in range(STEPS)
    ]


def chosen(model: nn.Module, norms: bool) -> list[bool]:
    """Which parameters, in order, belong to a normalisation layer: layers 1 and 4 of `network`, two tensors each."""
    flags = [False, False, True, True, False, False, True, True]
    assert len(list(model.parameters())) == len(flags)
    return flags if norms else [not flag for flag in flags]


def recursion(step: Callable[[nn.Module, Callable[[], list[Tensor]], list[Tensor]], list[Tensor]]) -> Tensor:
    """SGD with momentum and coupled decay at w, along what `step` says; returns the last weights."""
    model = network()
    parameters = list(model.parameters())
    moments = [torch.zeros_like(p) for p in parameters]
    for inputs, targets in batches():

        def gradient(inputs: Tensor = inputs, targets: Tensor = targets) -> list[Tensor]:
            return list(torch.autograd.grad(nn.functional.cross_entropy(model(inputs), targets), parameters))

        clean = [p.detach().clone() for p in parameters]
        descent = step(model, gradient, moments)
        with torch.no_grad():
            for p, w, v, d in zip(parameters, clean, moments, descent, strict=True):
                v.mul_(MOMENTUM).add_(d + DECAY * w)
                p.copy_(w - LR * v)
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def moved(model: nn.Module, direction: list[Tensor], norms: bool, rho: float) -> None:
    """Add ρ d/‖d‖ to the chosen parameters, the norm over those alone."""
    which = chosen(model, norms)
    length = torch.sqrt(
        sum((d.square().sum() for d, take in zip(direction, which, strict=True) if take), torch.zeros(()))
    )
    if length > 0:
        with torch.no_grad():
            for p, d, take in zip(model.parameters(), direction, which, strict=True):
                if take:
                    p.add_(rho * d / length)


def trained(name: str, **options: object) -> Tensor:
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    optimizer = create(name, base, rho=RHO, **options)
    for inputs, targets in batches():

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        optimizer.step(closure)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("but", [False, True], ids=["norms", "everything but norms"])
def test_sam_on_is_its_recursion(but: bool) -> None:
    def step(model: nn.Module, gradient: Callable[[], list[Tensor]], moments: list[Tensor]) -> list[Tensor]:
        moved(model, gradient(), norms=not but, rho=RHO)
        return gradient()

    torch.testing.assert_close(trained("sam_on", but=but), recursion(step), rtol=0, atol=1e-10)


def test_msam_on_is_its_recursion() -> None:
    def step(model: nn.Module, gradient: Callable[[], list[Tensor]], moments: list[Tensor]) -> list[Tensor]:
        moved(model, moments, norms=True, rho=-RHO)
        return gradient()

    torch.testing.assert_close(trained("msam_on"), recursion(step), rtol=0, atol=1e-10)

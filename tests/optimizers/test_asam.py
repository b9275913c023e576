"""Which tensors ASAM stretches: all but biases, or those that the authors stretch."""

import pytest
import torch
from torch import nn

import optimizers


class Named(nn.Module):
    """A tensor of each kind of name."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(4))
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.gate = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.norm(self.layer(x + self.cls_token)) * self.gate


def reference_epsilon(model, rho, eta, adaptive):
    """ε = ρ T² g/‖T g‖ as SamsungLabs/ASAM has it, with T chosen by the name."""
    stretch = {n: p.detach().abs() + eta if adaptive(n) else torch.ones_like(p) for n, p in model.named_parameters()}
    length = torch.cat([(stretch[n] * p.grad).flatten() for n, p in model.named_parameters()]).norm()
    return [rho * stretch[n] ** 2 * p.grad / length for n, p in model.named_parameters()]


@pytest.mark.parametrize("how", ["named parameters", "model", "batch"])
def test_asam_stretches_the_authors_tensors_if_asked(how):
    model = Named()
    base = torch.optim.SGD(model.named_parameters() if how == "named parameters" else model.parameters(), lr=0.1)
    options = {"model": model} if how == "model" else {}
    optimizer = optimizers.ASAM(base, rho=0.5, adapts="weights", **options)
    closure = optimizers.BatchClosure(model, nn.functional.mse_loss, torch.randn(8, 4), torch.randn(8, 4))
    optimizer.step(closure)
    closure()
    expected = reference_epsilon(model, 0.5, 0.01, lambda name: "weight" in name)
    for ours, theirs in zip(optimizer.perturbation(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_asam_stretches_all_but_biases_by_default():
    model = Named()
    optimizer = optimizers.ASAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
    optimizers.BatchClosure(model, nn.functional.mse_loss, torch.randn(8, 4), torch.randn(8, 4))()
    expected = reference_epsilon(model, 0.5, 0.01, lambda name: "bias" not in name)
    for ours, theirs in zip(optimizer.perturbation(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_asam_says_what_it_needs_to_choose_by_name():
    model = Named()
    with pytest.raises(ValueError, match="adapts: expected one of all but biases, weights, got 'norms'"):
        optimizers.ASAM(torch.optim.SGD(model.parameters(), lr=0.1), adapts="norms")
    optimizer = optimizers.ASAM(torch.optim.SGD(model.parameters(), lr=0.1), adapts="weights")
    optimizers.BatchClosure(model, nn.functional.mse_loss, torch.randn(8, 4), torch.randn(8, 4))()
    with pytest.raises(ValueError, match=r"got 6 without; .*model=model, or its base with model.named_parameters\(\)"):
        optimizer.perturbation()

"""How many copies of the parameters a method holds, between steps and at the moment of the second pass."""

import gc

import pytest
import torch
from optimizer_training import create
from torch import nn

import optimizers

# between steps, and the most at any backward pass: tensors of the optimizer beyond the base's momentum and the gradients
COPIES = {
    "plain": (0, 0),
    "sam": (0, 1),
    "msam": (0, 1),
    "fsam": (1, 2),
    "vasso": (1, 2),
    "vsam": (1, 2),
    "looksam": (1, 2),
    "budget_sam": (1, 2),
    "gsam": (0, 2),
    "wsam": (0, 2),
    "aesam": (0, 1),
    "s2sam": (1, 2),
    "asam": (0, 1),
    "esam": (0, 1),
}
SIZE = 211  # no other test's tensors have this shape


def copies(known):
    gc.collect()
    storages = {
        thing.untyped_storage().data_ptr()
        for thing in gc.get_objects()
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.shape == (SIZE, SIZE)
    }
    return len(storages - known)


@pytest.mark.parametrize("method", COPIES)
def test_extra_copies(method):
    """One weight matrix; whatever else has its shape is a copy. The old gradient that a method keeps for its reuse counts."""
    weight = nn.Parameter(torch.randn(SIZE, SIZE) / SIZE)
    base = torch.optim.SGD([weight], lr=0.01, momentum=0.9)
    optimizer = create(method, base, **({"gamma": 1.0, "beta": 1.0} if method == "esam" else {}))
    x = torch.ones(3, SIZE)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = (x @ weight).square().mean()
        momentum = base.state[weight].get("momentum_buffer") if weight in base.state else None
        owned = {t.untyped_storage().data_ptr() for t in (weight, momentum) if t is not None}
        seen.append(copies(owned))
        loss.backward()
        return loss

    for _ in range(7):
        optimizer.step(closure)
    owned = {t.untyped_storage().data_ptr() for t in (weight, weight.grad, base.state[weight]["momentum_buffer"])}
    between, most = COPIES[method]
    assert copies(owned) == between
    assert max(seen) <= most
    assert optimizers.describe(method).state

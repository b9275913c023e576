"""How many copies of the parameters a method holds, between steps and at the moment of the second pass."""

import gc

import pytest
import torch
from expectations import expected
from optimizer_training import METHODS, create
from torch import nn

import optimizers
from optimizers.core import norms

SIZE = 211  # no other test's tensors have this shape


def copies(known):
    gc.collect()
    storages = {
        thing.untyped_storage().data_ptr()
        for thing in gc.get_objects()
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.shape == (SIZE, SIZE)
    }
    return len(storages - known)


class Counting(nn.LayerNorm):
    """One weight matrix, which a method for normalisation layers takes for one of theirs."""

    def __init__(self, base_of):
        super().__init__((SIZE, SIZE), bias=False)
        self.weight = nn.Parameter(torch.randn(SIZE, SIZE) / SIZE)
        self.base_of, self.seen = base_of, []

    def forward(self, x):
        momentum = self.base_of().state.get(self.weight, {}).get("momentum_buffer")
        owned = {t.untyped_storage().data_ptr() for t in (self.weight, momentum) if t is not None}
        self.seen.append(copies(owned))
        return x @ self.weight


@pytest.fixture
def nothing_older():
    """What exists already is left out of the search, which otherwise takes longer than the training."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("nothing_older")
@pytest.mark.parametrize("on_host", [True, False], ids=["host", "accelerator"])
@pytest.mark.parametrize("method", METHODS)
def test_extra_copies(method, on_host, monkeypatch):
    """One weight matrix; whatever else has its shape is a copy. The old gradient that a method keeps for its reuse counts."""
    monkeypatch.setattr(norms, "on_host", lambda flag: on_host)
    model = Counting(lambda: base)
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizer = create(method, base, **expected(method).copied_with)
    x = torch.ones(4, SIZE)
    for _ in range(7):
        optimizer.step(optimizers.BatchClosure(model, lambda out, _: out.square().mean(), x, x[:, 0]))
    owned = {
        t.untyped_storage().data_ptr()
        for t in (model.weight, model.weight.grad, base.state[model.weight]["momentum_buffer"])
    }
    between, most = optimizers.describe(method).copies
    assert copies(owned) == between
    assert max(model.seen) == most
    assert optimizers.describe(method).state

"""A branch of the model that takes no part in the loss, with gradients that are zeroed in place."""

import torch
from optimizer_training import BASES, same
from torch import nn

from optimizers import SharpnessAware


def test_an_unused_branch_that_is_zeroed_in_place_is_no_accumulation():
    """zero_grad(set_to_none=False) leaves zeros where nothing flows."""
    finals = []
    for to_none in (True, False):
        torch.manual_seed(0)
        model = nn.ModuleDict({"unused": nn.Linear(5, 3), "used": nn.Linear(5, 3)})
        optimizer = SharpnessAware(BASES["sgd"](model.parameters(), weight_decay=0.0))
        for step in range(3):
            x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))

            def closure(x=x, to_none=to_none, model=model, optimizer=optimizer):
                optimizer.zero_grad(set_to_none=to_none)
                loss = model["used"](x).square().mean()
                loss.backward()
                return loss

            if not to_none and step == 0:
                model["unused"].weight.grad = torch.zeros(3, 5)
            optimizer.step(closure)
        finals.append([p.detach().clone() for p in model.parameters()])
    assert same(*finals)

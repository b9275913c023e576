"""No step waits for the device, but for the one number that a deciding policy reads.

Tensors on torch's meta device know shapes but hold no numbers, so any attempt to read one is an error, and every branch
that an accelerator would take is taken. Where there is a GPU, torch itself reports each synchronisation.
"""

import pytest
import torch
from optimizer_training import METHODS, Smooth, create, over_methods
from torch import nn

import optimizers

READS_ONE_NUMBER = {"aesam", "budget_sam"}


def closures(model, device):
    x, y = torch.ones(16, 5, device=device), torch.zeros(16, dtype=torch.long, device=device)
    return optimizers.BatchClosure(model, nn.functional.cross_entropy, x, y)


@over_methods
def test_no_number_is_read_from_the_device(method):
    if method == "random":
        pytest.skip("the meta device has no random number generator; see the test on a GPU")
    model = Smooth().to("meta")
    optimizer = create(method, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    closure = closures(model, "meta")
    if method in READS_ONE_NUMBER:
        with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
            optimizer.step(closure)
        return
    for _ in range(7):
        optimizer.step(closure)
    assert optimizer.gradient_evaluations >= 7


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_steps_on_a_gpu_wait_for_nothing(method):
    model = Smooth().cuda()
    optimizer = create(method, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    closure = closures(model, "cuda")
    for _ in range(6):
        optimizer.step(closure)
    torch.cuda.set_sync_debug_mode("warn" if method in READS_ONE_NUMBER else "error")
    try:
        for _ in range(6):
            optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(p.isfinite().all() for p in model.parameters())

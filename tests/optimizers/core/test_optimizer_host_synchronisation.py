"""No step waits for the device, but for the one number that a deciding policy reads.

Three ways to see it. Tensors on torch's meta device know shapes but hold no numbers: any attempt to read one is an error,
and every branch that an accelerator would take is taken. On the CPU the numbers are real, and each one that is read is
counted. Where there is a GPU, torch itself reports each synchronisation.
"""

import warnings

import pytest
import torch
from expectations import expected
from optimizer_training import METHODS, Smooth, Training, create
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import optimizers
from optimizers.core import norms

CASES = {method: (method, {}, lambda steps, method=method: registered(method, steps)) for method in METHODS} | {
    f"{method}, {name}": (method, options, reads)
    for method in METHODS
    for name, (options, reads) in expected(method).reading.items()
}
over_cases = pytest.mark.parametrize(("method", "options", "reads"), CASES.values(), ids=CASES)


def registered(method, steps):
    """How many numbers the first `steps` steps may read: as many as the method is registered with."""
    (number,) = optimizers.describe(method).reads(steps)
    return number


def closures(model, device):
    x, y = torch.ones(16, 5, device=device), torch.zeros(16, dtype=torch.long, device=device)
    return optimizers.BatchClosure(model, nn.functional.cross_entropy, x, y)


@over_cases
def test_no_number_is_read_from_the_device(method, options, reads):
    model = Smooth().to("meta")
    optimizer = create(method, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options)
    closure = closures(model, "meta")
    before_reading = next((step for step in range(7) if reads(step + 1)), 7)
    for _ in range(before_reading):
        if expected(method).draws_on_device and optimizer.gradient_evaluations:
            with pytest.raises(RuntimeError, match="META device type not an accelerator"):  # so it draws on the device
                optimizer.step(closure)
            return
        optimizer.step(closure)
    assert optimizer.gradient_evaluations >= before_reading
    if reads(7):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):
            optimizer.step(closure)


class Reads(TorchDispatchMode):
    """Counts how often the host waits for numbers, but for its own: coin tosses, lists, and what is made of these."""

    ITS_OWN = (torch.ops.aten.rand, torch.ops.aten.lift_fresh)  # torch.rand, torch.tensor([...])

    def __init__(self):
        super().__init__()
        self.count = 0
        self.own = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = function.overloadpacket in self.ITS_OWN
        own = made or (bool(tensors) and all(id(tensor) in self.own for tensor in tensors))
        if waits(function, args) and not own:
            self.count += 1
        result = function(*args, **(kwargs or {}))
        if own and isinstance(result, torch.Tensor):
            self.own[id(result)] = result
        return result


def waits(function, args):
    """Whether the host needs numbers for it: to have one, or to know the shape of the result."""
    if function.overloadpacket is torch.ops.aten.index:  # a mask's shape must be counted, that of indices is known
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(function.tags))


@over_cases
def test_numbers_read_are_counted_and_nothing_depends_on_where_they_are(method, options, reads, monkeypatch):
    """The branches of an accelerator, on the CPU: they read what is stated, and take the same steps."""
    plain, counted = (Training(method, net=Smooth, **options) for _ in range(2))
    monkeypatch.setattr(norms, "on_host", lambda flag: False)
    mode, tolist = Reads(), torch.Tensor.tolist

    def counting(tensor):
        mode.count += id(tensor) not in mode.own
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counting)
    batches = []
    for number in range(12):
        counted.number = number
        batches.append(counted.closure())
    with mode:
        for step, batch in enumerate(batches, start=1):
            counted.optimizer.step(batch)
            assert mode.count == reads(step)
    monkeypatch.undo()
    plain.run(12)
    for left, right in zip(counted.weights(), plain.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_the_counter_sees_every_way_to_read():
    tensor = torch.arange(3.0)
    for read in (lambda: float(tensor[0]), lambda: tensor[0].item(), lambda: bool(tensor[0] > 0), lambda: int(tensor[1]),
                 lambda: tensor.nonzero(), lambda: tensor[tensor > 0], lambda: torch.equal(tensor, tensor)):  # fmt: skip
        with Reads() as mode:
            read()
        assert mode.count == 1
    with Reads() as mode:
        float(torch.rand(()) < 0.5)
        float(torch.tensor([2.0, 4.0]).var())
        tensor[tensor.topk(2).indices]
    assert mode.count == 0


@pytest.mark.gpu
@over_cases
def test_steps_on_a_gpu_wait_for_nothing(method, options, reads):
    model = Smooth().cuda()
    optimizer = create(method, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options)
    closure = closures(model, "cuda")
    for _ in range(6):
        optimizer.step(closure)
    torch.cuda.set_sync_debug_mode("warn" if reads(12) else "error")
    try:
        with warnings.catch_warnings(record=True) as synchronisations:
            warnings.simplefilter("always")
            for _ in range(6):
                optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(synchronisations) == reads(12) - reads(6)
    assert all(p.isfinite().all() for p in model.parameters())

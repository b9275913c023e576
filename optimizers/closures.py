"""What is asked of a closure: that each call computes the whole gradient of the step, at the weights of the moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def refuse_accumulation(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Raise if the closure in this block adds to a gradient that was there before.

    Some trainers accumulate micro-batches over several calls and hand over only the last as the closure; the gradient
    of the others cannot be taken again at w + ε. An old gradient that is still the same tensor and was written exactly
    once has been added to; zeroed in place and then added to, it was written twice.
    """
    before = next(((p, p.grad, p.grad._version) for p in parameters if p.grad is not None), None)
    yield
    if before is None:
        return
    parameter, gradient, version = before
    if parameter.grad is gradient and gradient._version == version + 1:
        raise RuntimeError(
            "expected a closure that zeroes the gradients and computes those of the whole step, got one that added to "
            "gradients of an earlier backward pass: a second pass at w + ε cannot repeat what came before. "
            "Call zero_grad() in the closure, and accumulate micro-batches inside it"
        )

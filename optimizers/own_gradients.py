"""Each pass of a step leaves gradients that are its own: taken at the weights of the moment, and added to nothing older.

Trainers that accumulate call `backward` on some micro-batches first and hand over the last one as the closure. Gradients
gathered elsewhere than where the closure is evaluated would be added up with its own, whatever is done to them in place
afterwards (clipping, scaling). So what lies in `.grad` before the pass is dropped, and one parameter, the smallest, holds
zeros instead: a closure that takes them away, or writes to them before its own gradient arrives, zeroes its gradients.
One that adds to them meant to add to what was there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from optimizers.closures import BatchClosure, Closure
from optimizers.norms import is_sharded


def drop(parameters: Sequence[Tensor]) -> None:
    """Forget the gradients of earlier passes."""
    for parameter in parameters:
        parameter.grad = None


@contextmanager
def own_gradients(parameters: Sequence[Tensor], closure: Closure) -> Iterator[None]:
    """Raise `RuntimeError` if the closure called in this block adds to gradients that were there before.

    Costs the zeros of one small parameter, and no look at any number.
    """
    present = [parameter for parameter in parameters if parameter.grad is not None]
    if not present or (isinstance(closure, BatchClosure) and closure.own):
        drop(present)
        yield
        return
    witness = min(present, key=lambda parameter: parameter.numel())
    assert witness.grad is not None
    zeros = torch.zeros_like(witness.grad)
    drop(present)
    witness.grad = zeros
    version, added = zeros._version, False

    def arrives(_: Tensor) -> None:
        nonlocal added
        added = added or (witness.grad is zeros and zeros._version == version)

    # sharded parameters (FSDP2) receive their gradients outside of autograd: there, the same tensor is taken for added to
    hook = witness.register_hook(arrives) if witness.requires_grad and not is_sharded(witness) else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
    kept = witness.grad is zeros and (hook is None or zeros._version == version)
    if added or kept:
        raise RuntimeError(
            "expected a closure that zeroes the gradients and computes those of the whole step, got one that added to "
            "gradients of an earlier backward pass: these were taken at other weights, and a pass at w + ε cannot "
            "repeat what came before. Call optimizer.zero_grad() in the closure and accumulate micro-batches inside it "
            "(or BatchClosure(..., at_once=m)); where a trainer accumulates by itself, step(closure, again=whole) with "
            "the closure of all micro-batches, as optimizers.LightningSteps and optimizers.HuggingFaceSteps do"
        )

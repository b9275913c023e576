"""What is asked of a closure: that each call computes the whole gradient of the step, at the weights of the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from optimizers.norms import shards

Closure = Callable[[], Any]


class BatchClosure:
    """The closure of one minibatch, for every method: zero, forward, mean loss, backward.

        optimizer.step(BatchClosure(model, loss_fn, inputs, targets))

    `loss_fn(model(inputs), targets)` is a mean over examples. Most methods take any closure; those that look into the
    batch (ESAM, m-SAM) or differentiate twice (second-order SAM) need one of these.
    """

    def __init__(
        self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], inputs: Tensor, targets: Tensor
    ) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.inputs = inputs
        self.targets = targets
        self.outputs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __call__(self) -> Tensor:
        """The gradient of the mean loss into `.grad`; returns the loss and remembers the model's `outputs`."""
        self.model.zero_grad()
        outputs = self.model(self.inputs)
        loss = self.loss_fn(outputs, self.targets)
        loss.backward()
        self.outputs = outputs.detach()
        return loss.detach()

    def losses(self, outputs: Tensor) -> Tensor:
        """The loss of each example, (n,): `loss_fn` of batches of one, at once."""
        return torch.vmap(lambda output, target: self.loss_fn(output[None], target[None]))(outputs, self.targets)

    def select(self, examples: Tensor) -> BatchClosure:
        """The closure of the examples with these indices (on the device of the inputs)."""
        return BatchClosure(self.model, self.loss_fn, self.inputs[examples], self.targets[examples])

    def split(self, size: int) -> list[BatchClosure]:
        """The closures of consecutive micro-batches of `size` examples, the last one perhaps smaller."""
        parts = zip(self.inputs.split(size), self.targets.split(size), strict=True)
        return [BatchClosure(self.model, self.loss_fn, inputs, targets) for inputs, targets in parts]

    def hessian_product(self, parameters: list[Tensor], vectors: list[Tensor]) -> list[Tensor]:
        """The Hessian of the mean loss at the present weights times a vector; costs about two gradients.

        Data-parallel replicas average their products, as they do their gradients.
        """
        replicas = self.model if isinstance(self.model, DistributedDataParallel) else None
        model = self.model if replicas is None else cast(nn.Module, replicas.module)
        with torch.enable_grad():
            loss = self.loss_fn(model(self.inputs), self.targets)
            gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            used = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and g.requires_grad]
            found = torch.autograd.grad(
                [g for g, _ in used], parameters, [v for _, v in used], allow_unused=True, materialize_grads=True
            )
        products = shards(found)  # those of sparse gradients are sparse
        if replicas is not None:
            group = replicas.process_group
            for product in products:
                torch.distributed.all_reduce(product, group=group)
                product.div_(group.size())
        return products


def batch_closure(closure: Closure, purpose: str) -> BatchClosure:
    """`closure` itself if it is a `BatchClosure`, else a `TypeError` that says what the method needs it for."""
    if not isinstance(closure, BatchClosure):
        raise TypeError(
            f"{purpose}, so a plain closure is not enough: "
            "call step(optimizers.BatchClosure(model, loss_fn, inputs, targets))"
        )
    return closure


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

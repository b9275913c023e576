"""What is asked of a closure: that each call computes the whole gradient of the step, at the weights of the moment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from optimizers.core.norms import shards

Closure = Callable[[], Any]


class BatchClosure:
    """The closure of one minibatch, for every method: zero, forward, mean loss, backward.

        optimizer.step(BatchClosure(model, loss_fn, inputs, targets))

    `loss_fn(model(inputs), targets)` is a mean over examples. Most methods take any closure; those that look into the
    batch (ESAM, m-SAM) or differentiate twice (second-order SAM) need one of these.

    `at_once=m` takes m examples through the model at a time, to fit memory, and accumulates the gradient of the whole
    batch: the same step for every method, if examples are independent (batch normalisation sees m at a time).

    `autocast` is a context for forward pass and loss, such as `torch.autocast("cuda", torch.bfloat16)`. `scaler` scales
    the loss in fp16; `step(..., scaler=scaler)` hands its own over to a closure that has none.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        scaler: torch.amp.GradScaler | None = None,
        autocast: AbstractContextManager[Any] | None = None,
        at_once: int | None = None,
    ) -> None:
        if at_once is not None and at_once < 1:
            raise ValueError(f"expected at least one example at once, got at_once={at_once}")
        self.model = model
        self.loss_fn = loss_fn
        self.inputs = inputs
        self.targets = targets
        self.scaler = scaler
        self.autocast = autocast
        self.at_once = at_once
        self.outputs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __call__(self) -> Tensor:
        """The gradient of the mean loss into `.grad`; returns the loss and remembers the model's `outputs`."""
        self.model.zero_grad()
        if isinstance(self.loss_fn, nn.Module):
            self.loss_fn.zero_grad()
        losses, outputs = [], []
        for part, local in self._parts():
            with local:
                output, loss = part.evaluate()
                if len(part) != len(self):
                    loss = loss * (len(part) / len(self))
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            losses.append(loss.detach())
            outputs.append(output.detach())
        self.outputs = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def evaluate(self) -> tuple[Any, Tensor]:
        """The model's outputs, and their mean loss, with the graph of both."""
        with self.autocast or nullcontext():
            outputs = self.model(self.inputs)
            return outputs, self.loss_fn(outputs, self.targets)

    def losses(self, outputs: Tensor) -> Tensor:
        """The loss of each example, (n,): `loss_fn` of batches of one, at once."""
        with self.autocast or nullcontext():
            return torch.vmap(lambda output, target: self.loss_fn(output[None], target[None]))(outputs, self.targets)

    def losses_now(self) -> Tensor:
        """The loss of each example at the present weights, (n,); costs one forward pass."""
        torch.clear_autocast_cache()  # around a whole step, it holds the weights of another pass
        outputs = []
        with torch.no_grad():
            for part, _ in self._parts():
                with self.autocast or nullcontext():
                    outputs.append(part.model(part.inputs))
        return self.losses(outputs[0] if len(outputs) == 1 else torch.cat(outputs))

    def select(self, examples: Tensor) -> BatchClosure:
        """The closure of the examples with these indices (on the device of the inputs)."""
        return self._of(self.inputs[examples], self.targets[examples])

    def split(self, size: int) -> list[BatchClosure]:
        """The closures of consecutive micro-batches of `size` examples, the last one perhaps smaller."""
        return [self._of(*part) for part in zip(self.inputs.split(size), self.targets.split(size), strict=True)]

    def hessian_product(self, parameters: list[Tensor], vectors: list[Tensor]) -> list[Tensor]:
        """The Hessian of the mean loss at the present weights times a vector; costs about two gradients.

        Data-parallel replicas average their products, as they do their gradients.
        """
        replicas = self.model if isinstance(self.model, DistributedDataParallel) else None
        torch.clear_autocast_cache()
        whole: list[Tensor] = []
        for part in self.split(self.at_once or max(1, len(self))):
            if replicas is not None:
                part.model = cast(nn.Module, replicas.module)
            with torch.enable_grad():
                _, loss = part.evaluate()
                gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
                used = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and g.requires_grad]
                found = torch.autograd.grad(
                    [g for g, _ in used], parameters, [v for _, v in used], allow_unused=True, materialize_grads=True
                )
            products = shards(found)  # those of sparse gradients are sparse
            if len(part) != len(self):
                torch._foreach_mul_(products, len(part) / len(self))
            if whole:
                torch._foreach_add_(whole, products)
            else:
                whole = products
        if replicas is not None:
            group = replicas.process_group
            for product in whole:
                torch.distributed.all_reduce(product, group=group)
                product.div_(group.size())
        return whole

    def scale_by(self, scaler: torch.amp.GradScaler | None) -> torch.amp.GradScaler | None:
        """Agree with `step` on the scaler: the one of either; two different ones are refused."""
        if self.scaler is not None and scaler is not None and self.scaler is not scaler:
            raise ValueError(
                "expected one scaler, got another in BatchClosure(scaler=) than in step(scaler=); drop one"
            )
        if self.own:
            self.scaler = self.scaler or scaler
        return self.scaler or scaler

    @property
    def own(self) -> bool:
        """Whether the call is the one above, which scales as it is told and adds to nothing; a subclass may do other."""
        return type(self).__call__ is BatchClosure.__call__

    def _of(self, inputs: Tensor, targets: Tensor) -> BatchClosure:
        part = copy.copy(self)
        part.inputs, part.targets, part.outputs = inputs, targets, None
        return part

    def _parts(self) -> Iterator[tuple[BatchClosure, AbstractContextManager[Any]]]:
        """What goes through the model at once, and the context of it: replicas average with the last part only."""
        parts = [self] if self.at_once is None or self.at_once >= len(self) else self.split(self.at_once)
        for number, part in enumerate(parts, start=1):
            waits = isinstance(self.model, DistributedDataParallel) and number < len(parts)
            yield part, cast(DistributedDataParallel, self.model).no_sync() if waits else nullcontext()


def batch_closure(closure: Closure | None, purpose: str) -> BatchClosure:
    """`closure` itself if it is a `BatchClosure`, else a `TypeError` that says what the method needs it for."""
    if not isinstance(closure, BatchClosure):
        raise TypeError(
            f"{purpose}, so a plain closure is not enough: "
            "call step(optimizers.BatchClosure(model, loss_fn, inputs, targets))"
        )
    return closure

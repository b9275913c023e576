"""What is asked of a closure: that each call computes the whole gradient of the step, at the weights of the moment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from optimizers.core.norms import shards
from optimizers.ground.rows import arguments, first_tensor, rows_of

Closure = Callable[[], Any]


class BatchClosure:
    """The closure of one minibatch, for every method: zero, forward, mean loss, backward.

        optimizer.step(BatchClosure(model, loss_fn, inputs, targets))

    `loss_fn(model(inputs), targets)` is a mean over examples, or over the terms that `count(targets)` counts (tokens that
    are not ignored, say). Inputs that are a tuple or a mapping are `model(*inputs)` or `model(**inputs)`; the model may
    return anything. Most methods take any closure; those that look into the batch (ESAM, m-SAM) or differentiate twice
    (second-order SAM) need one of these.

    `at_once=m` takes m examples through the model at a time, to fit memory, and accumulates the gradient of the whole
    batch: the same step for every method, if examples are independent (batch normalisation sees m at a time).

    `autocast` is a context for forward pass and loss, such as `torch.autocast("cuda", torch.bfloat16)`. `scaler` scales
    the loss in fp16; `step(..., scaler=scaler)` hands its own over to a closure that has none.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        inputs: Any,
        targets: Any,
        *,
        count: Callable[[Any], Any] | None = None,
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
        self.count = count
        self.scaler = scaler
        self.autocast = autocast
        self.at_once = at_once
        self.outputs: Any = None

    def __len__(self) -> int:
        return _rows(self.targets)

    def share_of(self, whole: BatchClosure) -> Any:
        """What the mean loss of this part weighs in that of the whole batch: a number, or a scalar on the device."""
        if self.count is None:
            return len(self) / len(whole)
        terms, of_all = self.count(self.targets), self.count(whole.targets)
        if not isinstance(of_all, Tensor):
            return terms / max(of_all, 1)
        wide = torch.float32 if of_all.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        return terms.to(wide) / of_all.clamp(min=1)

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
                    loss = (loss * part.share_of(self)).to(loss.dtype)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            losses.append(loss.detach())
            outputs.append(output.detach() if isinstance(output, Tensor) else pytree.tree_map(_detached, output))
        self.outputs = _together(outputs)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def evaluate(self) -> tuple[Any, Tensor]:
        """The model's outputs, and their mean loss, with the graph of both."""
        with self.autocast or nullcontext():
            outputs = self.forward()
            return outputs, self.loss_fn(outputs, self.targets)

    def forward(self) -> Any:
        """The model's outputs."""
        args, kwargs = arguments(self.inputs)
        return self.model(*args, **kwargs)

    def losses(self, outputs: Any) -> Tensor:
        """The loss of each example, (n,): `loss_fn` of batches of one, at once, or in turn where vmap cannot take it."""
        rows = len(self)
        by_row = pytree.tree_map(lambda v: 0 if _has_rows(v, rows) else None, (outputs, self.targets))

        def one(output: Any, target: Any) -> Tensor:
            mapped = pytree.tree_map(
                lambda value, along: value[None] if along == 0 else value, (output, target), by_row
            )
            return self.loss_fn(*mapped)

        with self.autocast or nullcontext():
            try:
                return torch.vmap(one, in_dims=by_row)(outputs, self.targets)
            except RuntimeError as failure:
                if "vmap" not in str(failure):
                    raise
            row = [
                pytree.tree_map(lambda v, along, i=i: v[i] if along == 0 else v, (outputs, self.targets), by_row)
                for i in range(rows)
            ]
            return torch.stack([one(*values) for values in row])

    def losses_now(self) -> Tensor:
        """The loss of each example at the present weights, (n,); costs one forward pass."""
        torch.clear_autocast_cache()  # around a whole step, it holds the weights of another pass
        outputs = []
        with torch.no_grad():
            for part, _ in self._parts():
                with self.autocast or nullcontext():
                    outputs.append(part.forward())
        return self.losses(_together(outputs))

    def select(self, examples: Tensor) -> BatchClosure:
        """The closure of the examples with these indices (on the device of the inputs)."""
        return self._of(examples)

    def split(self, size: int) -> list[BatchClosure]:
        """The closures of consecutive micro-batches of `size` examples, the last one perhaps smaller."""
        return [self._of(slice(start, start + size)) for start in range(0, len(self), size)]

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
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the one attention that has second derivatives
                _, loss = part.evaluate()
                gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
                used = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and g.requires_grad]
                found = torch.autograd.grad(
                    [g for g, _ in used], parameters, [v for _, v in used], allow_unused=True, materialize_grads=True
                )
            products = shards(found)  # those of sparse gradients are sparse
            if len(part) != len(self):
                scale(products, part.share_of(self))
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

    def _of(self, examples: slice | Tensor) -> BatchClosure:
        part = copy.copy(self)
        part.inputs, part.targets = (rows_of(value, examples, len(self)) for value in (self.inputs, self.targets))
        part.outputs = None
        return part

    def _parts(self) -> Iterator[tuple[BatchClosure, AbstractContextManager[Any]]]:
        """What goes through the model at once, and the context of it: replicas average with the last part only."""
        parts = [self] if self.at_once is None or self.at_once >= len(self) else self.split(self.at_once)
        for number, part in enumerate(parts, start=1):
            waits = isinstance(self.model, DistributedDataParallel) and number < len(parts)
            yield part, cast(DistributedDataParallel, self.model).no_sync() if waits else nullcontext()


def scale(tensors: list[Tensor], weight: Any) -> None:
    """Multiply in place by a number, or by a scalar on the device."""
    if isinstance(weight, Tensor):
        for tensor in tensors:
            tensor.mul_(weight.to(tensor))
    else:
        torch._foreach_mul_(tensors, weight)


def _rows(targets: Any) -> int:
    tensor = first_tensor(targets)
    if tensor is None or not tensor.ndim:
        raise TypeError(f"expected targets with a row for each example, got {type(targets).__name__}")
    return len(tensor)


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _together(outputs: list[Any]) -> Any:
    """The outputs of the parts of a batch, one after the other."""
    if len(outputs) == 1:
        return outputs[0]
    return pytree.tree_map(lambda *v: torch.cat(v) if isinstance(v[0], Tensor) and v[0].ndim else v[0], *outputs)


def batch_closure(closure: Closure | None, purpose: str) -> BatchClosure:
    """`closure` itself if it is a `BatchClosure`, else a `TypeError` that says what the method needs it for."""
    if not isinstance(closure, BatchClosure):
        raise TypeError(
            f"{purpose}, so a plain closure is not enough: "
            "call step(optimizers.BatchClosure(model, loss_fn, inputs, targets))"
        )
    return closure

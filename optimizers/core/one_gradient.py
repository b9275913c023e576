"""Steps whose ε is known beforehand: one gradient, taken at w + ε. With a closure, or without.

With a closure the weights are w again after the step. Without one, `loss.backward(); optimizer.step()`, the gradient must
be at w + ε already when the step begins: so w + ε stays loaded between steps, and `eval()` and `train()` swap the sides.
Whatever reads the model in between sees w + ε, its `state_dict()` and averages of weights included: `with
optimizer.clean():` is for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch

from optimizers.core import norms
from optimizers.core.closures import BatchClosure
from optimizers.core.passes import Whole
from optimizers.core.step import Displacement, Step, move, own_gradients


class Side:
    """Which weights the parameters hold between steps: w, or, between steps without a closure, w + ε."""

    def __init__(self) -> None:
        self.displacement: Displacement | None = None  # set while w + ε is loaded
        self.closure_free = False
        """Whether steps have been taken without a closure."""
        self.training = True
        """Whether `train()` was called later than `eval()`."""
        self.coming: Step | None = None
        """The coming step, if anybody has asked about it already."""
        self.ahead: bool | None = None
        """What was decided of the coming step by an older version, whose counters had moved on then, and was saved."""

    @property
    def displaces(self) -> bool:
        """Whether any parameter is away from w."""
        return self.displacement is not None and bool(self.displacement.parameters)

    def unload(self) -> None:
        """Load w, if it is not."""
        if self.displacement is not None:
            self.displacement.restore()
            self.displacement = None


class Sided(Whole, Protocol):
    """A sharpness-aware optimizer that may be left at w + ε."""

    side: Side

    def coming_step(self) -> Step:
        """The step that comes, the same one until it is done."""

    def descend(self, step: Step, finish: Callable[[], object] | None = None) -> None:
        """The end of a step."""


def load(optimizer: Sided) -> None:
    """Move the weights to w + ε."""
    step = optimizer.coming_step()
    optimizer.side.displacement = move(step, optimizer.metric(step, optimizer.direction(step)))


def _climbs(optimizer: Sided) -> bool:
    return optimizer.coming_step().climbs and optimizer.perturbs


def _return(optimizer: Sided, step: Step) -> None:
    """Let the direction see the gradient while the weights are still at w + ε; then load w."""
    step.displacement = optimizer.side.displacement
    if step.displacement is not None:
        optimizer.direction.before_return(step)
    optimizer.side.unload()


def gather(optimizer: Sided, step: Step, closure: Callable[[], Any] | None, *, gathered: bool) -> Any:
    """The pass of a step with a closure, from w to w; leaves the gradient at w + ε in `.grad`.

    A closure may add to gradients taken where the weights are: at w if the step does not move them, or at the w + ε that
    was loaded before. What was `gathered` at w is taken anew; batch normalisation has seen the batch by then.
    """
    side = optimizer.side
    loss = step.evaluate(closure) if gathered else None
    moved = False
    if _climbs(optimizer) and side.displacement is None:
        load(optimizer)
        moved = side.displaces
    try:
        if not gathered:
            known = isinstance(closure, BatchClosure) and closure.own
            with own_gradients(optimizer.parameters, closure) if moved or known else nullcontext():
                loss = step.evaluate(closure)
        elif moved:
            norms.drop(optimizer.parameters)
            with optimizer.frozen_batch_norms():
                step.evaluate(step.closure)
        _return(optimizer, step)
    finally:
        side.unload()
    return loss


def _rehearses(optimizer: Sided) -> bool:
    """Whether this is no step but `torch.distributed.checkpoint.state_dict`, which fills a state that it takes for empty.

    It sets every lr to 0 and every gradient to zeros, steps, and puts the lr back only if that does not raise. So nothing
    is done: w stays, no state appears, and the lr comes back. Reads the device only where every lr is 0 on the host.
    """
    rates = [group.get("lr", 1.0) for group in optimizer.param_groups]
    if any(isinstance(lr, torch.Tensor) and lr.device.type != "cpu" for lr in rates) or any(lr != 0 for lr in rates):
        return False
    trained = [parameter for parameter in optimizer.parameters if parameter.requires_grad]
    gradients = [p.grad for p in trained if p.grad is not None and p.grad.layout == torch.strided]
    if not trained or len(gradients) < len(trained):
        return False
    present = [shard.any().float() for shard in norms.shards(gradients)]
    return bool(norms.total(present, trained) == 0)


def step_without_closure(optimizer: Sided, scaler: torch.amp.GradScaler | None) -> None:
    """A step along the gradients in `.grad`, which were taken at w + ε; loads the next w + ε."""
    side, method = optimizer.side, type(optimizer).__name__
    if scaler is None and _rehearses(optimizer):
        return
    if optimizer.direction.needs_gradient:
        raise RuntimeError(
            f"{method} needs the gradient at w + ε as well, which only a closure can compute: "
            "call step(closure) with a closure that zeroes the gradients, backpropagates and returns the loss "
            "(under Hugging Face's Trainer: class Mine(optimizers.HuggingFaceSteps, Trainer))"
        )
    if scaler is not None:
        raise RuntimeError("without a closure the scaler drives the step: call scaler.step(optimizer)")
    if not side.training:
        raise RuntimeError(
            "the clean weights are loaded since eval(); call optimizer.train() before computing gradients, "
            "so that they are taken at w + ε"
        )
    if not side.closure_free:
        side.closure_free = True
    step = optimizer.coming_step()
    step.scaling = None
    _climbs(optimizer)  # time passes, also in the first of these steps, whose ε is zero: there is no moment yet
    step.count()
    _return(optimizer, step)
    optimizer.descend(step)
    if _climbs(optimizer):
        load(optimizer)


def evaluate(optimizer: Sided) -> None:
    """Load w until `train`."""
    optimizer.side.unload()
    optimizer.side.training = False


def train(optimizer: Sided) -> None:
    """Load w + ε again, if steps are taken without a closure."""
    side = optimizer.side
    side.training = True
    if side.closure_free and side.displacement is None and _climbs(optimizer):
        load(optimizer)


@contextmanager
def clean(optimizer: Sided) -> Iterator[None]:
    """Inside the block w is loaded; after it the side of before."""
    side = optimizer.side
    training, away = side.training, side.displacement is not None
    with torch.no_grad():
        evaluate(optimizer)
    try:
        yield
    finally:
        side.training = training
        if away and side.displacement is None:
            with torch.no_grad():
                load(optimizer)

"""Steps whose ε is known beforehand: one gradient, taken at w + ε. With a closure, or without.

With a closure the weights are w again after the step. Without one, `loss.backward(); optimizer.step()`, the gradient must
be at w + ε already when the step begins: so w + ε stays loaded between steps, and `eval()` and `train()` swap the sides.
Whatever reads the model in between sees w + ε, its `state_dict()` and averages of weights included: `with
optimizer.clean():` is for those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from optimizers.closures import BatchClosure, Closure
from optimizers.displacement import Displacement, displace
from optimizers.gradients import NOTHING
from optimizers.own_gradients import drop, own_gradients
from optimizers.scaling import Scaling

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


class Side:
    """Which weights the parameters hold between steps: w, or, between steps without a closure, w + ε."""

    def __init__(self) -> None:
        self.displacement: Displacement | None = None  # set while w + ε is loaded
        self.closure_free = False
        """Whether steps have been taken without a closure."""
        self.training = True
        """Whether `train()` was called later than `eval()`."""
        self.climbs: bool | None = None
        """What the policy said of the coming step; None if it was not asked yet."""

    def decide(self, optimizer: SharpnessAware) -> bool:
        """Whether the coming step climbs: the policy, which may count or toss, is asked once a step."""
        if self.climbs is None:
            self.climbs = optimizer.policy.ascend(optimizer, NOTHING)
        return self.climbs and optimizer._perturbs

    @property
    def displaces(self) -> bool:
        """Whether any parameter is away from w."""
        return self.displacement is not None and bool(self.displacement.parameters)

    def load(self, optimizer: SharpnessAware) -> None:
        """Move the weights to w + ε."""
        self.displacement = displace(optimizer, NOTHING)

    def leave(self, optimizer: SharpnessAware) -> None:
        """Let the direction see the gradient while the weights are still at w + ε; then load w."""
        if self.displacement is not None:
            optimizer.direction.leave(optimizer, self.displacement)
        self.unload()

    def unload(self) -> None:
        """Load w, if it is not."""
        if self.displacement is not None:
            self.displacement.restore()
            self.displacement = None


def gather(optimizer: SharpnessAware, closure: Closure | None, scaling: Scaling, again: Closure | None) -> Any:
    """The pass of a step with a closure, from w to w; leaves the gradient at w + ε in `.grad`.

    A closure may add to gradients taken where the weights are: at w if the step does not move them, or at the w + ε that
    was loaded before. With `again` what was gathered at w is taken anew; batch normalisation has seen the batch by then.
    """
    side = optimizer._side
    loss = optimizer._evaluate(closure, scaling) if again is not None else None
    moved = False
    if side.decide(optimizer) and side.displacement is None:
        side.load(optimizer)
        moved = side.displaces
    try:
        if again is not None:
            if moved:
                drop(optimizer._parameters)
                with optimizer.frozen_batch_norms():
                    optimizer._evaluate(again, scaling)
        else:
            assert closure is not None
            known = isinstance(closure, BatchClosure) and closure.own
            with own_gradients(optimizer._parameters, closure) if moved or known else nullcontext():
                loss = optimizer._evaluate(closure, scaling)
        side.leave(optimizer)
    finally:
        side.unload()
    return loss


def step_without_closure(optimizer: SharpnessAware, scaler: torch.amp.GradScaler | None) -> None:
    """A step along the gradients in `.grad`, which were taken at w + ε; loads the next w + ε."""
    side, method = optimizer._side, type(optimizer).__name__
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
        side.decide(optimizer)  # of this step, whose ε is zero: there is no moment yet
    optimizer.gradient_evaluations += 1
    side.leave(optimizer)
    optimizer._descend(Scaling(None))
    if side.decide(optimizer):
        side.load(optimizer)


def evaluate(optimizer: SharpnessAware) -> None:
    """Load w until `train`."""
    optimizer._side.unload()
    optimizer._side.training = False


def train(optimizer: SharpnessAware) -> None:
    """Load w + ε again, if steps are taken without a closure."""
    side = optimizer._side
    side.training = True
    if side.closure_free and side.displacement is None and side.decide(optimizer):
        side.load(optimizer)


@contextmanager
def clean(optimizer: SharpnessAware) -> Iterator[None]:
    """Inside the block w is loaded; after it the side of before."""
    side = optimizer._side
    training, away = side.training, side.displacement is not None
    with torch.no_grad():
        evaluate(optimizer)
    try:
        yield
    finally:
        side.training = training
        if away and side.displacement is None:
            with torch.no_grad():
                side.load(optimizer)

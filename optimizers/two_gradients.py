"""The passes of a step that looks at w first: the gradient there, the ascent, the gradient at w + ε, and w again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from optimizers.closures import Closure
from optimizers.displacement import Displacement, displace
from optimizers.gradients import NOTHING, BothGradients, Gradient
from optimizers.own_gradients import drop, own_gradients
from optimizers.scaling import Scaling

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


def passes(optimizer: SharpnessAware, closure: Closure | None, scaling: Scaling, again: Closure | None = None) -> Any:
    """One pass, or two where the policy says so; leaves the descent direction in `.grad`, returns the first loss.

    With `again`, `closure` completes the gradient that is being gathered in `.grad` (None: it is complete), and `again`
    takes its place in the passes that follow.
    """
    direction, policy, reuse = optimizer.direction, optimizer.policy, optimizer.reuse
    active = optimizer._perturbs
    climb = not policy.reads_gradient and policy.ascend(optimizer, NOTHING) and active  # time passes at ρ = 0, too
    local = optimizer.no_sync() if optimizer.no_sync is not None and climb else nullcontext()
    with local:
        if again is not None:
            loss = optimizer._evaluate(closure, scaling)
        else:
            assert closure is not None
            again = closure
            with own_gradients(optimizer._parameters, closure):
                loss = optimizer._evaluate(closure, scaling)
    clean = optimizer._gradient()
    direction.observe(optimizer, clean)
    if active and policy.reads_gradient:
        climb = policy.ascend(optimizer, clean)
    if climb:
        keeps = reuse is not None or policy.reads_both  # the gradient at w is needed beside the one at w + ε
        clean.disposable = not keeps
        if reuse is not None:
            reuse.before_ascent(optimizer)
        drop(optimizer._parameters)  # ours now
        with _displaced(optimizer, clean, keeps) as displacement:
            direction.refine(optimizer, displacement, lambda: _evaluate_anew(optimizer, again, scaling))
            _evaluate_anew(optimizer, optimizer._descent_closure(again), scaling)
        both = BothGradients(clean, again)
        if policy.reads_both:
            policy.learn(optimizer, both)
        if reuse is not None:
            reuse.after_ascent(optimizer, both)
    elif active and reuse is not None:
        reuse.without_ascent(optimizer, clean)
    return loss


def _evaluate_anew(optimizer: SharpnessAware, closure: Closure, scaling: Scaling) -> None:
    """The gradient at the present weights: earlier ones are ours, and the closure need not zero them."""
    drop(optimizer._parameters)
    optimizer._evaluate(closure, scaling)


@contextmanager
def _displaced(optimizer: SharpnessAware, clean: Gradient, keeps: bool) -> Iterator[Displacement]:
    """Inside the block the weights are w + ε and BatchNorm's statistics are frozen; after it, w bit for bit."""
    if keeps and torch.distributed.is_available() and torch.distributed.is_initialized():
        # data-parallel gradients may be views of communication buffers, which the second pass overwrites
        clean.tensors = [gradient.clone() for gradient in clean.tensors]
    displacement = displace(optimizer, clean)
    if not keeps:
        clean.tensors.clear()  # give the memory back before the second pass
    try:
        with optimizer.frozen_batch_norms():
            yield displacement
    finally:
        displacement.restore()

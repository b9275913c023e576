"""The passes of a step that looks at w first: the gradient there, the ascent, the gradient at w + ε, and w again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from optimizers.closures import Closure, refuse_accumulation
from optimizers.displacement import Displacement, displace
from optimizers.gradients import NOTHING, BothGradients, Gradient
from optimizers.scaling import Scaling

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


def passes(optimizer: SharpnessAware, closure: Closure, scaling: Scaling) -> Any:
    """One pass, or two where the policy says so; leaves the descent direction in `.grad`, returns the first loss."""
    direction, policy, reuse = optimizer.direction, optimizer.policy, optimizer.reuse
    active = optimizer._perturbs
    climb = not policy.reads_gradient and policy.ascend(optimizer, NOTHING) and active  # time passes at ρ = 0, too
    local = optimizer.no_sync() if optimizer.no_sync is not None and climb else nullcontext()
    with local, refuse_accumulation(optimizer._parameters):
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
        for parameter in clean.parameters:
            parameter.grad = None  # ours now: the closure may zero in place, and need not zero at all
        with _displaced(optimizer, clean, keeps) as displacement:
            direction.refine(optimizer, displacement, lambda: optimizer._evaluate(closure, scaling))
            optimizer._evaluate(optimizer._descent_closure(closure), scaling)
        both = BothGradients(clean, closure)
        if policy.reads_both:
            policy.learn(optimizer, both)
        if reuse is not None:
            reuse.after_ascent(optimizer, both)
    elif active and reuse is not None:
        reuse.without_ascent(optimizer, clean)
    return loss


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

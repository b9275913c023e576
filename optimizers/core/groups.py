r"""m-sharpness: every micro-batch of m examples climbs for itself, and the gradients at the separate peaks are averaged.

d = Σ_i (m_i/n) ∇L_i(w + ε_i),   ε_i = ρ ∇L_i(w)/‖∇L_i(w)‖
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optimizers.core import two_gradients
from optimizers.core.closures import Closure, batch_closure
from optimizers.core.scaling import Scaling

if TYPE_CHECKING:
    from optimizers.core.sharpness_aware import SharpnessAware


def passes(optimizer: SharpnessAware, closure: Closure, scaling: Scaling, size: int) -> Any:
    """Both passes of each micro-batch in turn; leaves the mean descent direction in `.grad` and returns the mean loss.

    BatchNorm normalises within a micro-batch, and counts each. Costs and counts as two gradients of the whole batch.
    """
    batch = batch_closure(closure, f"micro_batch={size} splits the batch")
    evaluations = optimizer.gradient_evaluations
    loss: Any = 0.0
    total: dict[Tensor, Tensor] = {}
    for part in batch.split(size):
        weight = len(part) / len(batch)
        loss = loss + weight * two_gradients.passes(optimizer, part, scaling)
        parameters = [p for p in optimizer._parameters if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, weight)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            total[parameter] = total[parameter] + gradient if parameter in total else gradient
            parameter.grad = None
    for parameter, gradient in total.items():
        parameter.grad = gradient
    optimizer.gradient_evaluations = evaluations + 2
    return loss

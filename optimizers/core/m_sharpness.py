r"""m-sharpness: every m examples of a batch climb for themselves, and the gradients at the separate peaks are averaged.

d = Σ_i (m_i/n) ∇L_i(w + ε_i),   ε_i = ρ ∇L_i(w)/‖∇L_i(w)‖
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optimizers.core.closures import BatchClosure, scale
from optimizers.core.passes import Whole, two_gradients
from optimizers.core.step import Step


def part_by_part(optimizer: Whole, step: Step, batch: BatchClosure, m: int) -> Any:
    """Both passes of each part in turn; leaves the mean descent direction in `.grad` and returns the mean loss.

    BatchNorm normalises within a part, and counts each. Costs and counts as two gradients of the whole batch.
    """
    evaluations = optimizer.gradient_evaluations
    loss: Any = 0.0
    total: dict[Tensor, Tensor] = {}
    for part in batch.split(m):
        weight = part.share_of(batch)
        loss = loss + weight * two_gradients(optimizer, step.of(part), part)
        parameters = [p for p in optimizer.parameters if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        scale(gradients, weight)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            total[parameter] = total[parameter] + gradient if parameter in total else gradient
            parameter.grad = None
    for parameter, gradient in total.items():
        parameter.grad = gradient
    step.evaluations = 2
    optimizer.gradient_evaluations = evaluations + 2
    return loss

r"""m-sharpness: every m examples of a batch climb for themselves, and the gradients at the separate peaks are averaged.

d = Σ_i (m_i/n) ∇L_i(w + ε_i),   ε_i = ρ ∇L_i(w)/‖∇L_i(w)‖
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from optimizers.core.closures import BatchClosure, scale
from optimizers.core.passes import Whole, two_gradients
from optimizers.core.step import Step


def part_by_part(optimizer: Whole, step: Step, batch: BatchClosure, m: int) -> Any:
    """Both passes of each part in turn; leaves the mean descent direction in `.grad` and returns the mean loss.

    BatchNorm normalises within a part, and counts each. A gradient of a part, whoever takes it, counts by the part's share
    of the batch, so both passes count as two; a sum that is not whole is rounded up.
    """
    before, spent = optimizer.gradient_evaluations, 0.0
    loss: Any = 0.0
    total: dict[Tensor, Tensor] = {}
    for part in batch.split(m):
        weight = part.share_of(batch)
        rows = len(part) / len(batch)
        climb = step.of(part)
        loss = loss + weight * two_gradients(optimizer, climb, part)
        spent += rows * climb.evaluations
        parameters = [p for p in optimizer.parameters if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        scale(gradients, weight)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            total[parameter] = total[parameter] + gradient if parameter in total else gradient
            parameter.grad = None
    for parameter, gradient in total.items():
        parameter.grad = gradient
    optimizer.gradient_evaluations = before
    step.count(math.ceil(round(spent, 9)))
    return loss

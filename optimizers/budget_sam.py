r"""Budget: an exact number of gradients per step, the second ones where reusing the last h = g_s − g would err most.

The error of descending along g + h with an old h is predicted as its age times its weight in the step,

    score_t = age_t · ‖h‖/‖g_t‖,    climb iff  score_t ≥ (1 − c)/c · mean score of the climbs so far

c is the credit: every step earns `per_step` − 1 climbs, a climb costs one. At c ≤ 0 the threshold is infinite, at c = 1
it is zero, in between it is a price that rises as the credit falls; so the credit stays in [−1, 1], and after any number
of steps the gradients spent are within one of `per_step` times that number.

The host reads one number a step. This policy is this toolkit's own; compare tests/benchmarks/optimizer_comparison.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim import Optimizer

from optimizers.core.axes import Policy
from optimizers.core.psf import DecayedPSF
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step

_MEMORY = 0.9  # of the mean score


class Budget(Policy):
    """`per_step` gradients a step on average, kept to within one at any time; at the greatest age × ‖h‖/‖g‖."""

    reads_gradient = True
    reads_both = True
    counters = ("credit", "age", "mean_score", "length")

    def __init__(self, per_step: float) -> None:
        if not 1 <= per_step <= 2:
            raise ValueError(f"expected between 1 and 2 gradients a step, got {per_step}")
        self.per_step = per_step
        self.credit = 0.0
        self.age = 0
        self.mean_score = 0.0
        self.length = torch.zeros(())  # ‖h‖ of the last climb

    def decides(self, step: Step) -> bool:
        """Whether the predicted error is worth a gradient at the present price."""
        credit, age, mean = self.credit + (self.per_step - 1), self.age + 1, self.mean_score
        score = age * float(self.length.to(step.clean.norm.device) / step.clean.norm)
        if not math.isfinite(score):
            score = 0.0
        climb = credit >= 1 or (credit > 0 and (mean == 0 or score * credit >= (1 - credit) * mean))
        if climb:
            mean = score if mean == 0 else _MEMORY * mean + (1 - _MEMORY) * score
            credit, age = credit - 1, 0
        step.later(self).update(credit=credit, age=age, mean_score=mean)
        return climb

    def after_ascent(self, step: Step) -> None:
        """Keep ‖h‖, on the device."""
        step.later(self)["length"] = step.psf.norm


@register(
    "budget_sam",
    copies=(1, 2),
    gradients=lambda steps: range(math.ceil(1.3 * steps - 1), math.floor(1.3 * steps + 1) + 1),
    cost="any number from 1 to 2, exactly (1.3)",
    state="1, and 2 on steps that climb",
    reads=lambda steps: (steps,),
    reference="this toolkit",
    rho_range=(0.02, 0.5),
)
class BudgetSAM(SharpnessAware):
    """Exactly `per_step` gradients a step, the second ones where reusing the last h = g_s − g would err most."""

    def __init__(
        self, base: Optimizer, *, rho: float = 0.05, per_step: float = 1.3, gamma: float = 0.7, **options: Any
    ) -> None:
        super().__init__(base, rho=rho, policy=Budget(per_step), reuse=DecayedPSF(gamma=gamma), **options)

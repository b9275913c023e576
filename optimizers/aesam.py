r"""AE-SAM: climb where the gradient is long beside its recent past, which is where the loss is sharp.

    μ_t = δ μ_{t−1} + (1−δ) ‖g_t‖²,   s²_t = δ s²_{t−1} + (1−δ)(‖g_t‖² − μ_t)²
    climb iff ‖g_t‖² ≥ μ_t + c_t s_t,   c_t = (t/T) λ₁ + (1 − t/T) λ₂

With λ₁ = −1 and λ₂ = 1 climbs become more frequent from the first step to step T = `total_steps`; without that c stays
halfway, at 0. Both averages start from 0. A gradient that is not finite never climbs and leaves them alone.

Cost: one gradient, and a second where the first is long. State: two numbers. The host reads ‖g‖ once a step.

Jiang, Yang, Zhang, Kwok 2023, https://arxiv.org/abs/2304.14647
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from torch.optim import Optimizer

from optimizers.core.axes import Policy
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step
from optimizers.ground.signatures import Steps, at_least, from_up_to


class LongGradient(Policy):
    """Where ‖g‖² exceeds its running mean by c_t running standard deviations."""

    reads_gradient = True
    counters = ("steps", "mean", "variance")

    def __init__(
        self,
        *,
        total_steps: Annotated[int, at_least(1), Steps(epochs=math.inf)] | None = None,
        delta: Annotated[float, from_up_to(0, 1)] = 0.9,
        lambda_1: float = -1.0,
        lambda_2: float = 1.0,
    ) -> None:
        self.total_steps = total_steps
        self.delta = delta
        self.lambda_1 = lambda_1
        self.lambda_2 = lambda_2
        self.steps = 0
        self.mean = 0.0
        self.variance = 0.0

    def decides(self, step: Step) -> bool:
        """Whether the gradient is long; never where it is not finite, which leaves the averages alone."""
        square = float(step.clean.norm) ** 2
        # halfway, for ever, where nobody said how long the training will be
        progress = 0.5 if self.total_steps is None else min(self.steps / self.total_steps, 1.0)
        later = step.later(self)
        later["steps"] = self.steps + 1
        if not math.isfinite(square):
            step.optimizer.count_skipped_ascent()
            return False
        mean = self.delta * self.mean + (1 - self.delta) * square
        variance = self.delta * self.variance + (1 - self.delta) * (square - mean) ** 2
        later.update(mean=mean, variance=variance)
        threshold = progress * self.lambda_1 + (1 - progress) * self.lambda_2
        return square >= mean + threshold * math.sqrt(variance)


@register(
    "aesam",
    gradients=lambda steps: range(steps, 2 * steps + 1),
    cost="1 + the share of long gradients",
    reads=lambda steps: (steps,),
    reference="Jiang et al. 2023",
    rho_range=(0.02, 0.5),
    lengths={"total_steps": math.inf},
)
class AESAM(SharpnessAware):
    """Climb where ‖g‖² is large beside its running mean and deviation."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        total_steps: Annotated[int, at_least(1), Steps()] | None = None,
        delta: Annotated[float, from_up_to(0, 1)] = 0.9,
        lambda_1: float = -1.0,
        lambda_2: float = 1.0,
        **options: Any,
    ) -> None:
        policy = LongGradient(total_steps=total_steps, delta=delta, lambda_1=lambda_1, lambda_2=lambda_2)
        super().__init__(base, rho=rho, policy=policy, **options)

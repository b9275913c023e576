r"""SS-SAM: climb on a random part of the steps, with a probability that may follow any schedule.

    climb at step t with probability p or p(t);   cost 1 + p gradients on average

Zhao, Zhang, Hu 2022, https://arxiv.org/abs/2203.09962
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from optimizers.core.policies import Bernoulli
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.ground.signatures import Seed


def tosses(p: float, steps: int, seed: int = 0) -> int:
    """How many of so many steps climb, of the coin with this seed."""
    coin = torch.Generator().manual_seed(seed)
    return sum(float(torch.rand((), generator=coin)) < p for _ in range(steps))


@register(
    "sssam",
    gradients=lambda steps: (steps + tosses(0.5, steps),),
    cost="1 + p",
    reference="Zhao et al. 2022",
    rho_range=(0.02, 0.5),
)
class SSSAM(SharpnessAware):
    """Climb on each step with probability p, a number or a function of the step."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        p: float | Callable[[int], float] = 0.5,
        seed: Seed = 0,
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, policy=Bernoulli(p, seed=seed), **options)

r"""Adaptive Momentum-SAM: the momentum in proportion to the weights.

    ε = −ρ |w|⊙v/‖|w|⊙v‖

(ASAM's own metric, with T² over ‖T v‖, goes with momentum too: `SharpnessAware(base, direction=Momentum(),
metric=Adaptive())`. This is the form of the MSAM paper.)

Becker, Altrock, Risse 2024, https://arxiv.org/abs/2401.12033
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Metric
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.msam import Momentum


class Proportional(Metric):
    """ε = ρ |w|⊙d/‖|w|⊙d‖."""

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """|w|⊙d and its norm."""
        if not ascent.parameters:
            return ascent
        vectors = [norms.widened(local).abs() for local in norms.shards(ascent.parameters)]
        torch._foreach_mul_(vectors, [norms.widened(vector) for vector in ascent.vectors])
        return Ascent(ascent.parameters, vectors, norms.norm(vectors, ascent.parameters), disposable=True)


@register(
    "adaptive_msam",
    negative_rho="against the coming step",
    state="1, and 1 while perturbing",
    reference="Becker et al. 2024",
    closure_free=True,
    rho_range=(1.0, 6.0),
)
class AdaptiveMSAM(SharpnessAware):
    """Perturb along minus the momentum in proportion to the weights: ε = −ρ |w|⊙v/‖|w|⊙v‖, one gradient a step."""

    def __init__(self, base: Optimizer, *, rho: float = 3.0, **options: Any) -> None:
        super().__init__(base, rho=rho, direction=Momentum(), metric=Proportional(), **options)

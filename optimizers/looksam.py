r"""LookSAM: climb on every k-th step, and in between reuse the part of the perturbed gradient that turns the descent.

    every k steps   g_v = g_s − ⟨g_s, g⟩/‖g‖² · g          d = g_s
    otherwise       d = g + α (‖g‖/‖g_v‖) g_v               one gradient

Norms and products are global, over all tensors at once. α = 0.7 is for vision transformers; 0.1 suits CIFAR networks.

Cost: 1 + 1/k gradients a step. State: g_v, one copy; g and the clean weights while a step climbs, when g_v is dropped.

Liu, Mai, Chen, Hsieh, You 2022, https://arxiv.org/abs/2203.02714
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from optimizers import norms
from optimizers.gradients import BothGradients, Gradient
from optimizers.policies import EveryK
from optimizers.registry import register
from optimizers.reuse import Reuse, in_place
from optimizers.sharpness_aware import SharpnessAware

_KEY = "orthogonal_part"


class Orthogonal(Reuse):
    """Between climbs add the last g_v, the part of g_s at a right angle to g, at α times the length of g."""

    counters = ("length",)

    def __init__(self, *, alpha: float = 0.7) -> None:
        self.alpha = alpha
        self.length = torch.zeros(())  # ‖g_v‖

    def before_ascent(self, optimizer: SharpnessAware) -> None:
        """Drop what a new ascent replaces."""
        for state in optimizer.state.values():
            state.pop(_KEY, None)

    def after_ascent(self, optimizer: SharpnessAware, both: BothGradients) -> None:
        """Keep g_v; descend along g_s."""
        parameters, clean, descent = both.pairs
        along = norms.dot(descent, clean, parameters) * norms.inverse(norms.norm(clean, parameters)).square()
        kept = norms.finite_or_zero(descent, along.isfinite())
        along = along.nan_to_num(0.0, 0.0, 0.0)
        for parameter, g_s, g in zip(parameters, kept, clean, strict=True):
            part = g_s.clone()
            norms.add_scaled(part, g, -along)
            optimizer.state[parameter][_KEY] = part
        self.length = norms.norm([optimizer.state[parameter][_KEY] for parameter in parameters], parameters)

    def without_ascent(self, optimizer: SharpnessAware, clean: Gradient) -> None:
        """d = g + α (‖g‖/‖g_v‖) g_v."""
        factor = self.alpha * clean.norm.nan_to_num(0.0, 0.0, 0.0) * norms.inverse(self.length.to(clean.norm.device))
        for parameter, g in zip(clean.parameters, in_place(clean), strict=True):
            if _KEY in optimizer.state[parameter]:
                norms.add_scaled(g, optimizer.state[parameter][_KEY], factor)


@register(
    "looksam",
    cost="1 + 1/k",
    state="1, and 2 on every k-th step",
    reference="Liu et al. 2022",
    rho_range=(0.02, 1.0),
)
class LookSAM(SharpnessAware):
    """Climb on every k-th step and reuse what it turned the gradient by: d = g + α (‖g‖/‖g_v‖) g_v."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, k: int = 5, alpha: float = 0.7, **options: Any) -> None:
        super().__init__(base, rho=rho, **{"policy": EveryK(k), "reuse": Orthogonal(alpha=alpha)} | options)

r"""WSAM: sharpness as a regulariser of its own weight, γ/(1−γ), which is 1 for SAM (γ = ½).

    d = g + γ/(1−γ) (g_s − g)

The whole of d is what the base optimizer sees. (The authors' code can also take the sharpness out of the base and add it
to the step as it is, a variant of its own: their `decouple=True`.)

Cost: two gradients. State: none between steps; g beside the clean weights during one.

Yue et al. 2023, https://arxiv.org/abs/2305.15817
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Reuse
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step


class Weighted(Reuse):
    """d = g + γ/(1−γ) (g_s − g)."""

    def __init__(self, *, gamma: float = 0.9) -> None:
        if not 0 <= gamma < 1:
            raise ValueError(f"expected gamma in [0, 1), got {gamma}")
        self.gamma = gamma

    def after_ascent(self, step: Step) -> None:
        """A line through g and g_s, in place."""
        _, clean, descent = step.pairs
        if norms.on_host(step.finite) and step.finite and descent:
            torch._foreach_lerp_(descent, clean, 1 - self.gamma / (1 - self.gamma))
            return
        weight = torch.where(step.finite, 1 - self.gamma / (1 - self.gamma), 0.0)
        for g, g_s in zip(clean, descent, strict=True):
            g_s.lerp_(g, weight.to(g.device, g.dtype))


@register("wsam", copies=(0, 2), reference="Yue et al. 2023", rho_range=(0.02, 0.5))
class WSAM(SharpnessAware):
    """Weigh the sharpness: d = g + γ/(1−γ) (g_s − g)."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, gamma: float = 0.9, **options: Any) -> None:
        super().__init__(base, rho=rho, reuse=Weighted(gamma=gamma), **options)

r"""LookSAM: climb on every k-th step, and in between reuse the part of the perturbed gradient that turns the descent.

    every k steps   g_v = g_s − ⟨g_s, g⟩/‖g‖² · g          d = g_s
    otherwise       d = g + α (‖g‖/‖g_v‖) g_v               one gradient

Norms and products are global, over all tensors at once. α = 0.7 is for vision transformers; 0.1 suits CIFAR networks.

Cost: 1 + 1/k gradients a step. State: g_v, one copy; g and the clean weights while a step climbs, when g_v is dropped.

Liu, Mai, Chen, Hsieh, You 2022, https://arxiv.org/abs/2203.02714
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Reuse, in_place
from optimizers.core.policies import EveryK
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step
from optimizers.ground.signatures import at_least

_KEY = "orthogonal_part"


class Orthogonal(Reuse):
    """Between climbs add the last g_v, the part of g_s at a right angle to g, at α times the length of g."""

    counters = ("length",)

    def __init__(self, *, alpha: float = 0.7) -> None:
        self.alpha = alpha
        self.length = torch.zeros(())  # ‖g_v‖

    def before_ascent(self, step: Step) -> None:
        """Drop what a new ascent replaces."""
        for state in step.optimizer.state.values():
            state.pop(_KEY, None)

    def after_ascent(self, step: Step) -> None:
        """Keep g_v; descend along g_s."""
        parameters, clean, descent = step.pairs
        along = norms.dot(descent, clean, parameters) * norms.inverse(norms.norm(clean, parameters)).square()
        kept = norms.finite_or_zero(descent, along.isfinite())
        along = along.nan_to_num(0.0, 0.0, 0.0)
        for parameter, g_s, g in zip(parameters, kept, clean, strict=True):
            part = g_s.clone()
            norms.add_scaled(part, g, -along)
            step.optimizer.state[parameter][_KEY] = part
        step.later(self)["length"] = norms.norm(
            [step.optimizer.state[parameter][_KEY] for parameter in parameters], parameters
        )

    def without_ascent(self, step: Step) -> None:
        """d = g + α (‖g‖/‖g_v‖) g_v."""
        factor = (
            self.alpha
            * step.clean.norm.nan_to_num(0.0, 0.0, 0.0)
            * norms.inverse(self.length.to(step.clean.norm.device))
        )
        for parameter, g in zip(step.clean.parameters, in_place(step.clean), strict=True):
            if _KEY in step.optimizer.state[parameter]:
                norms.add_scaled(g, step.optimizer.state[parameter][_KEY], factor)


@register(
    "looksam",
    copies=(1, 2),
    gradients=lambda steps: (steps + -(-steps // 5),),
    cost="1 + 1/k",
    state="1, and 2 on every k-th step",
    reference="Liu et al. 2022",
    rho_range=(0.02, 1.0),
)
class LookSAM(SharpnessAware):
    """Climb on every k-th step and reuse what it turned the gradient by: d = g + α (‖g‖/‖g_v‖) g_v."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        k: Annotated[int, at_least(1)] = 5,
        alpha: Annotated[float, at_least(0)] = 0.7,
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, **{"policy": EveryK(k), "reuse": Orthogonal(alpha=alpha)} | options)

r"""GSAM: descend on the perturbed loss and, at a right angle to that, close the gap to the loss at w.

    d = g_s − α g_⊥,   g_⊥ = g − ⟨g, g_s⟩/‖g_s‖² · g_s

The base steps against d, so along +g_⊥: to first order that leaves L(w + ε) as it is and raises L(w), which closes the gap
between the two. With `rho_min`, ρ follows the learning rate η linearly, from ρ at the largest η down to ρ_min at η = `lr_min`.

Cost: two gradients. State: none between steps; g beside the clean weights during one.

Zhuang et al. 2022, https://arxiv.org/abs/2203.08065
"""

from __future__ import annotations

from typing import Annotated, Any

from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Reuse
from optimizers.core.radius import FollowLearningRate
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step
from optimizers.ground.signatures import at_least


class SurrogateGap(Reuse):
    """d = g_s − α g_⊥, g_⊥ the part of g at a right angle to g_s."""

    def __init__(self, *, alpha: float = 0.4) -> None:
        self.alpha = alpha

    def after_ascent(self, step: Step) -> None:
        """(1 + α⟨g, g_s⟩/‖g_s‖²) g_s − α g, in place."""
        parameters, clean, descent = step.pairs
        square = norms.dot(descent, descent, parameters)
        along = norms.dot(clean, descent, parameters) * norms.inverse(square)
        clean = norms.finite_or_zero(clean, square.isfinite())
        factor = self.alpha * along.nan_to_num(0.0, 0.0, 0.0)
        for g, g_s in zip(clean, descent, strict=True):
            own = (1 + factor).to(g_s.device)
            mixed = norms.widened(g_s).mul_(own).add_(g, alpha=-self.alpha)
            if mixed is not g_s:  # half precision
                g_s.copy_(mixed)


@register("gsam", copies=(0, 2), reference="Zhuang et al. 2022", rho_range=(0.02, 1.0))
class GSAM(SharpnessAware):
    """Close the surrogate gap too: d = g_s − α g_⊥; ρ may follow the learning rate."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        alpha: Annotated[float, at_least(0)] = 0.4,
        rho_min: Annotated[float, at_least(0)] | None = None,
        lr_min: Annotated[float, at_least(0)] = 0.0,
        **options: Any,
    ) -> None:
        schedule = None if rho_min is None else FollowLearningRate(rho, rho_min, lr_min=lr_min)
        super().__init__(base, rho=rho, reuse=SurrogateGap(alpha=alpha), rho_schedule=schedule, **options)

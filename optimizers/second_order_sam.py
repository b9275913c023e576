r"""Second-order SAM: the exact gradient of w ↦ L(w + ε(w)), with the dependence of ε on w that SAM leaves out.

    d = g_s + (∂ε/∂w)ᵀ g_s = g_s + ρ/‖g‖ · H(w) (g_s − ĝ⟨ĝ, g_s⟩),   ĝ = g/‖g‖

One Hessian-vector product more than SAM, taken at w on the same batch with BatchNorm frozen: the cost is about four
gradients, and they are counted as four. Needs a `BatchClosure`, since a plain closure has thrown its graph away.

Foret et al. 2021, appendix C.4 (the term that eq. 3 drops), https://arxiv.org/abs/2010.01412
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from optimizers import norms
from optimizers.closures import Closure, batch_closure
from optimizers.directions import Steepest
from optimizers.gradients import BothGradients
from optimizers.metrics import Euclidean
from optimizers.registry import register
from optimizers.reuse import Reuse
from optimizers.sharpness_aware import SharpnessAware


class ThroughAscent(Reuse):
    """Add (∂ε/∂w)ᵀ g_s for ε = ρ g/‖g‖."""

    def bind(self, optimizer: SharpnessAware) -> None:
        """Refuse a perturbation that depends on w in another way."""
        super().bind(optimizer)
        if type(optimizer.direction) is not Steepest or type(optimizer.metric) is not Euclidean:
            raise ValueError(
                "second-order SAM differentiates ε = ρ g/‖g‖; expected direction=Steepest and metric=Euclidean, got "
                f"{type(optimizer.direction).__name__} and {type(optimizer.metric).__name__}"
            )

    def after_ascent(self, optimizer: SharpnessAware, both: BothGradients) -> None:
        """One Hessian-vector product at w."""
        radii = {group["rho"] for group in optimizer.param_groups}
        if len(radii) > 1:
            raise ValueError(f"second-order SAM has one ball: expected one rho for all groups, got {sorted(radii)}")
        parameters, clean, descent = both.pairs
        inverse = norms.inverse(norms.norm(clean, parameters))
        along = norms.dot(clean, descent, parameters) * inverse.square()
        across = list(torch._foreach_sub(descent, [g * along.to(g.dtype) for g in clean]))
        across = norms.finite_or_zero(across, norms.norm(across, parameters).isfinite())
        batch = batch_closure(both.closure, "second-order SAM differentiates twice")
        with optimizer.frozen_batch_norms():
            products = batch.hessian_product(parameters, across)
        optimizer.gradient_evaluations += 2
        for g_s, product in zip(descent, products, strict=True):
            g_s.addcmul_(product, (radii.copy().pop() * inverse).to(g_s.dtype))


@register(
    "second_order_sam",
    cost="4 (one of them a Hessian product)",
    state="3 during the step",
    reference="Foret et al. 2021",
    rho_range=(0.02, 0.5),
)
class SecondOrderSAM(SharpnessAware):
    """The exact gradient of the perturbed loss, second-order term included: one Hessian product more."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, **options: Any) -> None:
        super().__init__(base, rho=rho, reuse=ThroughAscent(), **options)

    def _check_closure(self, closure: Closure) -> None:
        batch_closure(closure, "second-order SAM differentiates twice")

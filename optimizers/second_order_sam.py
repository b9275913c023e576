r"""Second-order SAM: the exact gradient of w ↦ L(w + ε(w)), with the dependence of ε on w that SAM leaves out.

    d = g_s + (∂ε/∂w)ᵀ g_s = g_s + 1/‖g‖ · H(w) (ρ g_s − ĝ⟨ĝ, ρ g_s⟩),   ĝ = g/‖g‖

ρ is one number, or one for each group: then it stands for the diagonal matrix of them.

One Hessian-vector product more than SAM, taken at w on the same batch with BatchNorm frozen: the cost is about four
gradients, and they are counted as four. Needs a `BatchClosure`, since a plain closure has thrown its graph away.

Foret et al. 2021, appendix C.4 (the term that eq. 3 drops), https://arxiv.org/abs/2010.01412
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Euclidean, Reuse, Steepest
from optimizers.core.closures import batch_closure
from optimizers.core.registry import register
from optimizers.core.seen import Seen
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step


class ThroughAscent(Reuse):
    """Add (∂ε/∂w)ᵀ g_s for ε = ρ g/‖g‖."""

    differentiates_twice = True

    def bind(self, optimizer: Seen) -> None:
        """Refuse a perturbation that depends on w in another way."""
        super().bind(optimizer)
        direction, metric = optimizer.axes["direction"], optimizer.axes["metric"]
        if type(direction) is not Steepest or type(metric) is not Euclidean:
            raise ValueError(
                "second-order SAM differentiates ε = ρ g/‖g‖; expected direction=Steepest and metric=Euclidean, got "
                f"{type(direction).__name__} and {type(metric).__name__}"
            )

    def after_ascent(self, step: Step) -> None:
        """One Hessian-vector product at w; where it is not finite, the descent stays along g_s."""
        parameters, clean, descent = step.pairs
        radius = step.optimizer.radius
        inverse = norms.inverse(norms.norm(clean, parameters))
        across = list(torch._foreach_mul(descent, [radius[parameter] for parameter in parameters]))
        along = norms.dot(clean, across, parameters) * inverse.square()
        for vector, g in zip(across, clean, strict=True):
            norms.add_scaled(vector, g, -along)
        across = norms.finite_or_zero(across, norms.norm(across, parameters).isfinite(), in_place=True)
        batch = batch_closure(step.closure, "second-order SAM differentiates twice")
        with step.optimizer.frozen_batch_norms():
            products = batch.hessian_product(parameters, across)
        step.count(2)
        finite = norms.norm(products, parameters).isfinite()
        step.optimizer.count_skipped_ascent((~finite).int())
        for g_s, product in zip(descent, norms.finite_or_zero(products, finite, in_place=True), strict=True):
            norms.add_scaled(g_s, product, inverse)


@register(
    "second_order_sam",
    gradients=lambda steps: (4 * steps,),
    forward_passes=lambda steps: (3 * steps,),
    copies=(0, 3),
    needs_batch=True,
    cost="4 (one of them a Hessian product)",
    shards=False,
    reference="Foret et al. 2021",
    rho_range=(0.02, 0.5),
)
class SecondOrderSAM(SharpnessAware):
    """The exact gradient of the perturbed loss, second-order term included: one Hessian product more."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, **options: Any) -> None:
        super().__init__(base, rho=rho, reuse=ThroughAscent(), **options)

"""The base optimizer itself, behind the interface of the others."""

from __future__ import annotations

from torch.optim import Optimizer

from optimizers.core.axes import Still
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware


@register("plain", reference="the base optimizer", closure_free=True, copies=(0, 0), moves="nothing")
class Plain(SharpnessAware):
    """No perturbation: the base optimizer, bit for bit."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base, rho=0.0, direction=Still())

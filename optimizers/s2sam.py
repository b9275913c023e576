r"""S2-SAM: climb along the gradient that the previous step descended on; one gradient a step.

    ε_t = ρ g_{t−1}/‖g_{t−1}‖,   g_{t−1} = ∇L_{B_{t−1}}(w_{t−1} + ε_{t−1})

A gradient that is not finite is not kept: the next step does not climb. There is no pass at w, so BatchNorm gathers its
statistics at w + ε: estimate them anew before evaluation.

Ji et al. 2024, https://openreview.net/forum?id=MJgMMqMDu4
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from optimizers.core.axes import Direction
from optimizers.core.kept_gradient import keep, kept
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step

_KEY = "previous_gradient"


class Previous(Direction):
    """d = the perturbed gradient of the step before."""

    needs_gradient = False
    counters = ("length",)

    def __init__(self) -> None:
        self.length = torch.zeros(())  # of the kept gradient

    def conclude(self, step: Step) -> None:
        """Keep a copy of this step's gradient: the closure will overwrite or drop it."""
        gradient = step.gradient()
        step.later(self)["length"] = keep(step.optimizer, _KEY, gradient)

    def __call__(self, step: Step) -> Ascent:
        """The kept gradients; zero before the first step."""
        held = kept(step.optimizer, _KEY)
        frozen = any(_KEY in step.optimizer.state[p] for p in step.optimizer.parameters if not p.requires_grad)
        return Ascent(held.parameters, held.tensors, None if frozen else self.length)


@register("s2sam", copies=(1, 2), reference="Ji et al. 2024", closure_free=True, rho_range=(0.02, 0.5))
class S2SAM(SharpnessAware):
    """Perturb along the previous step's gradient: ε = ρ g₋₁/‖g₋₁‖, one gradient a step."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, **options: Any) -> None:
        super().__init__(base, rho=rho, direction=Previous(), **options)

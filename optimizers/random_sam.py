r"""Random perturbation: a Gaussian direction of length ρ, the control experiment of every adversarial one.

    ε = ρ z/‖z‖,   z ~ N(0, I);   one gradient a step

The noise of step t is a function of (seed, t), so asking for ε changes nothing and a resumed run draws the same. Of a
sharded parameter (FSDP2) each rank draws the whole and keeps its part, so training is that of one process. BatchNorm gathers its statistics at w + ε: estimate them anew before evaluation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from optimizers.core import draws
from optimizers.core.axes import Direction
from optimizers.core.norms import shard_of
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import Seed


class Noise(Direction):
    """d = standard Gaussian noise, new on each step, the same on each replica."""

    needs_gradient = False
    turns = False
    counters = ("steps",)

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.steps = 0

    def conclude(self, step: Step) -> None:
        """Go on to the next step's noise."""
        step.later(self)["steps"] = self.steps + 1

    def __call__(self, step: Step) -> Ascent:
        """Noise for every trainable parameter; none on the first step, so that both call styles agree."""
        if self.steps == 0:
            return Ascent([], [])
        parameters = [parameter for parameter in step.optimizer.parameters if parameter.requires_grad]
        generators = {
            device: draws.generator(self.seed, self.steps, device) for device in {p.device for p in parameters}
        }
        noise = [
            shard_of(torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=generators[p.device]), p)
            for p in parameters
        ]
        return Ascent(parameters, noise, disposable=True)


@register("random", state="1, and 1 while perturbing", reference="control", closure_free=True)
class RandomSAM(SharpnessAware):
    """Perturb along Gaussian noise of length ρ, one gradient a step: the control experiment."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, seed: Seed = 0, **options: Any) -> None:
        super().__init__(base, rho=rho, direction=Noise(seed=seed), **options)

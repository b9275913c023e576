"""A method as somebody else might write it, in a file of their own: nothing of the toolkit knows of it."""

from typing import Annotated, Any

import torch
from torch.optim import Optimizer

from optimizers import SharpnessAware
from optimizers.core.axes import Direction
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import from_up_to


class Averaged(Direction):
    """d = m, the running mean of the unit gradients at w: m ← λm + (1−λ)ĝ, from m = 0."""

    def __init__(self, lmbda: float) -> None:
        self.lmbda = lmbda

    def observe(self, step: Step) -> None:
        """Move the mean."""
        for parameter, gradient in zip(step.clean.parameters, step.clean.tensors, strict=True):
            state = step.optimizer.state[parameter]
            mean = state.get("mean", torch.zeros_like(gradient))
            state["mean"] = self.lmbda * mean + (1 - self.lmbda) * gradient / step.clean.norm

    def __call__(self, step: Step) -> Ascent:
        """The mean."""
        return Ascent(step.clean.parameters, [step.optimizer.state[p]["mean"] for p in step.clean.parameters])


class AveragedAscent(SharpnessAware):
    """Climb along the running mean of unit gradients."""

    def __init__(
        self, base: Optimizer, *, rho: float = 0.05, lmbda: Annotated[float, from_up_to(0, 1)] = 0.9, **options: Any
    ) -> None:
        super().__init__(base, rho=rho, direction=Averaged(lmbda), **options)

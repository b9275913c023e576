r"""VaSSO: climb along a running average of the gradients, so that the adversary does not jump with every minibatch.

    m_t = (1−θ) m_{t−1} + θ g_t,   m_0 = 0,   ε = ρ m/‖m‖

g_t is the gradient at w; θ = 1 is SAM. A gradient that is not finite is left out of m.

Cost: two gradients. State: m, one copy (in float32 at least); the clean weights beside it during a step.

Li and Giannakis 2023, https://arxiv.org/abs/2309.15639
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from optimizers.core import gradient_average
from optimizers.core.axes import Direction
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step


class Averaged(Direction):
    """d = m, the running average of the gradients at w."""

    def __init__(self, *, theta: float = 0.9) -> None:
        if not 0 < theta <= 1:
            raise ValueError(f"expected theta in (0, 1], got {theta}")
        self.theta = theta

    def observe(self, step: Step) -> None:
        """m ← (1−θ) m + θ g."""
        gradient_average.update(step.optimizer, step.clean, self.theta, from_zero=True)

    def __call__(self, step: Step) -> Ascent:
        """The average."""
        return Ascent(step.clean.parameters, gradient_average.averages(step.optimizer, step.clean.parameters))


@register(
    "vasso",
    copies=(1, 2),
    reference="Li and Giannakis 2023",
    rho_range=(0.02, 0.5),
)
class VaSSO(SharpnessAware):
    """Perturb along a running average of the gradients: m ← (1−θ)m + θg, ε = ρ m/‖m‖."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, theta: float = 0.9, **options: Any) -> None:
        super().__init__(base, rho=rho, direction=Averaged(theta=theta), **options)

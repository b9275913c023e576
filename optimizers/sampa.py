r"""SAMPa: climb along the last gradient at an auxiliary point y, so that neither gradient of a step waits for the other.

    x̃_t = x_t + ρ ∇f(y_t)/‖∇f(y_t)‖,   y_{t+1} = x_t − η (∇f(y_t) + λ_w x_t + μ v_t),   ∇f(y_0) = 0
    the base steps from x_t along (1−λ) ∇f(x̃_t) + λ ∇f(y_{t+1})

λ = 0.2 is SAMPa-0.2. Weight decay and momentum v are in y with SGD, as in the authors' code; with other bases, as in the
paper's printed recursion, they are not. Both points are known when a step begins: two devices may take a gradient each.
Here one is taken after the other, at the cost of SAM, and both on the batch of the step (the authors take that at x̃_t on
the batch of ∇f(y_t)). BatchNorm's statistics and the loss are those at y. State: ∇f(y_t).

Xie, Pethick, Cevher 2024, https://arxiv.org/abs/2410.10683; checked against github.com/LIONS-EPFL/SAMPa, read, not run
"""

from typing import Annotated, Any

from torch.optim import Optimizer

from optimizers.core.axes import Direction
from optimizers.core.kept_gradient import keep, kept
from optimizers.core.moments import coming
from optimizers.core.norms import Gradient
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import between
from optimizers.wsam import Weighted


class Auxiliary(Direction):
    """d = ∇f(y), kept from the step before; the first gradient of a step is that at the next y."""

    def before_gradient(self, step: Step) -> Gradient:
        """From x to y."""
        base, last = step.optimizer.base, kept(step.optimizer, "auxiliary_gradient")
        group = {p: group for group in base.param_groups for p in group["params"]}
        pairs = zip(last.parameters, last.tensors, strict=True)
        return Gradient(last.parameters, [-group[p]["lr"] * coming(base, group[p], p, g) for p, g in pairs])

    def __call__(self, step: Step) -> Ascent:
        """The kept gradients; nothing before the first step."""
        last = kept(step.optimizer, "auxiliary_gradient")
        return Ascent(last.parameters, last.tensors)

    def conclude(self, step: Step) -> None:
        """Keep the gradient at y."""
        keep(step.optimizer, "auxiliary_gradient", step.clean)


@register("sampa", copies=(1, 3), reference="Xie et al. 2024", rho_range=(0.02, 0.5))
class SAMPa(SharpnessAware):
    """Climb along the gradient at an auxiliary point: two gradients a step that know nothing of each other."""

    def __init__(
        self, base: Optimizer, *, rho: float = 0.1, lmbda: Annotated[float, between(0, 1)] = 0.2, **options: Any
    ) -> None:
        reuse = Weighted(gamma=(1 - lmbda) / (2 - lmbda))  # g_x + λ (g_y − g_x)
        super().__init__(base, rho=rho, direction=Auxiliary(), reuse=reuse, **options)

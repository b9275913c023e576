r"""Sparse SAM: climb in the parameters whose Fisher information is largest, and leave the others where they are.

    F ← λF + (1−λ)g²;   every so many steps M = 1 on the `fraction` with the largest F, else 0;   ε = ρ M g/‖M g‖

F starts as g² and leaves out what is not finite; what has no M yet climbs. ‖ε‖ = ρ; the authors' code has ε = ρ M g/‖g‖,
which is shorter, and squares gradients of single examples before each choice of M. Cost: two gradients. State: F and M.

Mi, Shen, Ren, Zhou, Sun, Ji, Tao 2022 (SSAM-F), https://arxiv.org/abs/2210.05177
"""

from typing import Any

from torch.optim import Optimizer

from optimizers.core import gradient_average, norms
from optimizers.core.axes import Metric
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import Count, Share


class Sparse(Metric):
    """ε = ρ M d/‖M d‖, with M = 1 where the running mean of g² is largest."""

    counters, learns_from_gradient = ("steps",), True

    def __init__(self, *, fraction: float = 0.5, every: int = 100, lmbda: float = 0.9) -> None:
        self.fraction, self.every, self.lmbda, self.steps = fraction, every, lmbda, 0

    def observe(self, step: Step) -> None:
        """F ← λF + (1−λ)g², and M anew on the first of every `every` steps."""
        step.later(self)["steps"] = self.steps + 1
        fisher = gradient_average.update_squares(step.optimizer, step.clean, 1 - self.lmbda, key="fisher")
        if self.steps % self.every == 0:
            masks = norms.largest(fisher, self.fraction, step.clean.parameters)
            for parameter, mask in zip(step.clean.parameters, masks, strict=True):
                step.optimizer.state[parameter]["mask"] = mask

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """M d over its norm."""
        masks = [step.optimizer.state[parameter].get("mask") for parameter in ascent.parameters]
        vectors = [v if m is None else v * m for v, m in zip(ascent.vectors, masks, strict=True)]
        return Ascent(ascent.parameters, vectors, norms.norm(vectors, ascent.parameters))


@register("ssam", copies=(2, 3), state="2¼", reference="Mi et al. 2022", rho_range=(0.05, 0.5), lengths={"every": 1})
class SSAM(SharpnessAware):
    """Perturb only the parameters with the largest Fisher diagonal: ε = ρ M g/‖M g‖."""

    def __init__(
        self, base: Optimizer, *, rho: float = 0.1, fraction: Share = 0.5, every: Count = 100, **options: Any
    ) -> None:
        super().__init__(base, rho=rho, metric=Sparse(fraction=fraction, every=every), **options)

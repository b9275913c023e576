r"""Eigen-SAM: lean the perturbation towards the top eigenvector v of the Hessian, whose eigenvalue SAM means to lower.

    d = ĝ + α s (v − ⟨v, ĝ⟩ĝ),   s = sign⟨v, ĝ⟩,   ε = ρ d/‖d‖;   every p steps: v ← H v/‖H v‖, from v = ĝ

d, s, α, p are those of the authors' code (github.com/RitianLuo/EigenSAM, read, not run), where ε = ρ d, a refresh takes
five products in eval mode and p counts within an epoch. Here: one, BatchNorm frozen. v is of the largest |λ|. State: v.

Luo, Truong, Pham, Harandi, Phung, Le 2024, https://arxiv.org/abs/2501.12666
"""

from typing import Any

from torch.optim import Optimizer

from optimizers.core import norms, power_iteration
from optimizers.core.axes import Direction
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import Count, NotNegative


class Eigen(Direction):
    """d = g and, beside it, α ‖g‖ of the part of the top eigenvector that is across g; g where there is no v yet."""

    counters, differentiates_twice = ("steps",), True

    def __init__(self, *, alpha: float = 0.2, p: int = 100) -> None:
        self.alpha, self.p, self.steps = alpha, p, 0

    def observe(self, step: Step) -> None:
        """Refresh v on the first of every p steps, unless nothing is perturbed."""
        step.later(self)["steps"] = self.steps + 1
        if self.steps % self.p == 0 and step.optimizer.perturbs:
            power_iteration.iterate(step)

    def __call__(self, step: Step) -> Ascent:
        """‖g‖ d."""
        g, v = step.clean, power_iteration.eigenvector(step)
        along = norms.dot(g.tensors, v, g.parameters)
        vectors = g.tensors if g.disposable else [tensor.clone() for tensor in g.tensors]
        shrink, lean = self.alpha * along.abs() * norms.inverse(g.norm), self.alpha * g.norm * along.sign()
        for vector, other in zip(vectors, v, strict=True):
            vector.mul_((1 - shrink).to(vector))
            norms.add_scaled(vector, other, lean)
        return Ascent(g.parameters, vectors, disposable=True)


@register(
    "eigen_sam", copies=(1, 3), needs_batch=True, reference="Luo et al. 2024", rho_range=(0.02, 0.5), example={"p": 5},
    cost="2, and 2 more (a Hessian product) every p steps", state="1, and 2 more on these steps", shards=False,
    gradients=lambda n: (2 * n + 2 * -(-n // 100),), forward_passes=lambda n: (2 * n + -(-n // 100),),
)  # fmt: skip
class EigenSAM(SharpnessAware):
    """Perturb along the gradient and, by a part α, along the top Hessian eigenvector: d = ĝ + α s v⊥."""

    def __init__(
        self, base: Optimizer, *, rho: float = 0.05, alpha: NotNegative = 0.2, p: Count = 100, **options: Any
    ) -> None:
        super().__init__(base, rho=rho, direction=Eigen(alpha=alpha, p=p), **options)

r"""Eigen-SAM: lean the perturbation towards the top eigenvector v of the Hessian, whose eigenvalue SAM means to lower.

    d = ĝ + α s (v − ⟨v, ĝ⟩ĝ),   s = sign⟨v, ĝ⟩,   ε = ρ d/‖d‖;   every p steps: v ← H v/‖H v‖, from v = ĝ

One product at w on the step's batch a refresh (the authors' code iterates), BatchNorm frozen, counted as two gradients. v
stays where it is not finite, and is the eigenvector of the largest |λ|. Needs a `BatchClosure`. State: v.

Luo, Truong, Pham, Harandi, Phung, Le 2024, https://arxiv.org/abs/2501.12666
"""

from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Direction
from optimizers.core.closures import Closure, batch_closure
from optimizers.core.registry import register
from optimizers.core.seen import Seen
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import at_least

_KEY, _PURPOSE = "eigenvector", "Eigen-SAM differentiates twice"


class Eigen(Direction):
    """d = g and, beside it, α ‖g‖ of the part of the top eigenvector that is across g."""

    counters = ("steps",)

    def __init__(self, *, alpha: float = 0.2, p: int = 100) -> None:
        self.alpha, self.p, self.steps = alpha, p, 0

    def bind(self, optimizer: Seen) -> None:
        """Refuse parameters that cannot be differentiated twice."""
        super().bind(optimizer)
        if any(map(norms.is_sharded, optimizer.parameters)):
            raise ValueError(
                "Eigen-SAM differentiates twice, and a sharded model (FSDP2) keeps no graph for that: expected whole "
                "parameters, got sharded ones; use DistributedDataParallel, or sam, which differentiates once"
            )

    def observe(self, step: Step) -> None:
        """One step of the power iteration on the first of every p steps; none where nothing is perturbed."""
        step.later(self)["steps"] = self.steps + 1
        if self.steps % self.p or not step.optimizer.perturbs:
            return
        batch, parameters = batch_closure(step.closure, _PURPOSE), step.clean.parameters
        with step.optimizer.frozen_batch_norms():
            products = batch.hessian_product(parameters, self._start(step))
        length = norms.norm(products, parameters)
        step.optimizer.count_skipped_ascent((~length.isfinite()).int())
        inverse = norms.inverse(length)
        for parameter, old, product in zip(parameters, _eigenvector(step), products, strict=True):
            new = (norms.widened(product) * inverse.to(product.device)).to(old.dtype)
            step.optimizer.state[parameter][_KEY] = torch.where((inverse > 0).to(old.device), new, old)

    def conclude(self, step: Step) -> None:
        """Count the product, once for all parts of a batch."""
        if self.steps % self.p == 0 and step.optimizer.perturbs:
            step.count(2)

    def _start(self, step: Step) -> list[Tensor]:
        """v, or ĝ before the first product."""
        start = [vector.clone() for vector in _eigenvector(step)]
        first = torch.where(norms.norm(start, step.clean.parameters) == 0, norms.inverse(step.clean.norm), 0.0)
        for vector, g in zip(start, norms.finite_or_zero(step.clean.tensors, step.clean.norm.isfinite()), strict=True):
            norms.add_scaled(vector, g, first)
        return start

    def __call__(self, step: Step) -> Ascent:
        """‖g‖ d: g where there is no v yet."""
        g, v = step.clean, _eigenvector(step)
        along = norms.dot(g.tensors, v, g.parameters)
        vectors = g.tensors if g.disposable else [tensor.clone() for tensor in g.tensors]
        shrink, lean = self.alpha * along.abs() * norms.inverse(g.norm), self.alpha * g.norm * along.sign()
        for vector, other in zip(vectors, v, strict=True):
            vector.mul_((1 - shrink).to(vector))
            norms.add_scaled(vector, other, lean)
        return Ascent(g.parameters, vectors, disposable=True)


def _eigenvector(step: Step) -> list[Tensor]:
    states = [step.optimizer.state[parameter] for parameter in step.clean.parameters]
    return [s[_KEY] if _KEY in s else torch.zeros_like(g) for s, g in zip(states, step.clean.tensors, strict=True)]


@register(
    "eigen_sam",
    cost="2, and 2 more (a Hessian product) every p steps",
    state="1, and 2 more on these steps",
    copies=(1, 3),
    reference="Luo et al. 2024",
    rho_range=(0.02, 0.5),
    needs_batch=True,
    shards=False,
    gradients=lambda steps: (2 * steps + 2 * -(-steps // 100),),
    forward_passes=lambda steps: (2 * steps + -(-steps // 100),),
    example={"p": 5},
)
class EigenSAM(SharpnessAware):
    """Perturb along the gradient and, by a part α, along the top Hessian eigenvector: d = ĝ + α s v⊥."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        alpha: Annotated[float, at_least(0)] = 0.2,
        p: Annotated[int, at_least(1)] = 100,
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, direction=Eigen(alpha=alpha, p=p), **options)

    def check_closure(self, closure: Closure) -> None:
        """Refuse a closure without its graph."""
        batch_closure(closure, _PURPOSE)

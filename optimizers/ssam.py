r"""Sparse SAM: climb in the parameters whose Fisher information is largest, and leave the others where they are.

    F ← λF + (1−λ)g²;   every so many steps M = 1 on the `fraction` with the largest F, else 0;   ε = ρ M g/‖M g‖

F starts as g² and leaves out what is not finite; what has no M yet climbs. ‖ε‖ = ρ; the authors' code has ε = ρ M g/‖g‖,
which is shorter, and squares gradients of single examples before each choice of M. Cost: two gradients. State: F and M.

Mi, Shen, Ren, Zhou, Sun, Ji, Tao 2022 (SSAM-F), https://arxiv.org/abs/2210.05177
"""

from typing import Annotated, Any

import torch
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Metric
from optimizers.core.registry import register
from optimizers.core.seen import Seen
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import Range, at_least


class Sparse(Metric):
    """ε = ρ M d/‖M d‖, with M = 1 where the running mean of g² is largest."""

    counters = ("steps",)

    def __init__(self, *, fraction: float = 0.5, every: int = 100, lmbda: float = 0.9) -> None:
        self.fraction, self.every, self.lmbda, self.steps = fraction, every, lmbda, 0

    def bind(self, optimizer: Seen) -> None:
        """Refuse a direction without a gradient at w, of which nothing would be learnt."""
        if not getattr(optimizer.axes["direction"], "needs_gradient", True):
            raise ValueError("Sparse learns from gradients at w: expected a direction that needs them, like Steepest")
        super().bind(optimizer)

    def observe(self, step: Step) -> None:
        """F ← λF + (1−λ)g², and M anew on the first of every `every` steps."""
        step.later(self)["steps"] = self.steps + 1
        parameters, finite = step.clean.parameters, step.clean.norm.isfinite()
        states = [step.optimizer.state[parameter] for parameter in parameters]
        for state, g in zip(states, norms.finite_or_zero(step.clean.tensors, finite), strict=True):
            square = norms.widened(g).square()
            weight = torch.where(finite, 1 - self.lmbda, 0.0).to(square)
            state["fisher"] = state["fisher"].lerp_(square, weight) if "fisher" in state else square
        if self.steps % self.every == 0 and states:
            high = norms.total([state["fisher"].sum() for state in states], parameters)
            low, kept = torch.zeros_like(high), self.fraction * sum(parameter.numel() for parameter in parameters)
            for _ in range(60):  # bisect for the threshold: shards and devices only have to add up numbers
                middle = (low + high) / 2
                above = norms.total([(s["fisher"] >= middle.to(s["fisher"])).sum() for s in states], parameters)
                low, high = torch.where(above >= kept, middle, low), torch.where(above >= kept, high, middle)
            for state in states:
                state["mask"] = state["fisher"] >= low.to(state["fisher"])

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """M d over its norm."""
        masks = [step.optimizer.state[parameter].get("mask") for parameter in ascent.parameters]
        vectors = [v if m is None else v * m for v, m in zip(ascent.vectors, masks, strict=True)]
        return Ascent(ascent.parameters, vectors, norms.norm(vectors, ascent.parameters))


@register("ssam", copies=(2, 3), state="2¼", reference="Mi et al. 2022", rho_range=(0.05, 0.5), lengths={"every": 1})
class SSAM(SharpnessAware):
    """Perturb only the parameters with the largest Fisher diagonal: ε = ρ M g/‖M g‖."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.1,
        fraction: Annotated[float, Range(0, 1, open_low=True)] = 0.5,
        every: Annotated[int, at_least(1)] = 100,
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, metric=Sparse(fraction=fraction, every=every), **options)

r"""SAM with n steps of projected ascent, in the ball of the 1-, 2- or ∞-norm.

    ε_0 = 0,   ε_{j+1} = Π(ε_j + (stride · ρ) u(∇L_B(w + ε_j)))

u(g) is the unit vector (in the p-norm) of steepest ascent: g/‖g‖ for p = 2, sign(g) for p = ∞, the sign at the largest
entry for p = 1. Π projects onto ‖ε‖_p ≤ ρ. The default stride 1/n ends on the sphere when all gradients agree; a
larger one slides along it. A gradient that is not finite takes no step. The cost is n + 1 gradients.

Foret et al. 2021, section 2 and appendix C.4 (p-norms, several steps), https://arxiv.org/abs/2010.01412
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Direction, Euclidean, Metric
from optimizers.core.registry import register
from optimizers.core.seen import Seen
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Displacement, Step
from optimizers.ground.signatures import unbounded


class Ball(Metric):
    """The p-norm ball, p ∈ {1, 2, ∞}: ε = ρ u(d), which makes ⟨d, ε⟩ as large as ‖ε‖_p = ρ allows."""

    def __init__(self, p: float) -> None:
        if p not in (1, 2, math.inf):
            raise ValueError(f"expected p in {{1, 2, inf}}, got {p}")
        self.p = p

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """d/‖d‖, sign(d), or the sign at the largest entries (shared equally among equals)."""
        if self.p == 2 or not ascent.parameters:
            return Euclidean()(step, ascent)
        if any(map(norms.is_sharded, ascent.parameters)):
            raise ValueError(f"p = {self.p} needs the largest entry of all shards, which is not available; use p = 2")
        longest = torch.stack([vector.abs().max() for vector in ascent.vectors]).max()
        signs = [vector.sign() for vector in ascent.vectors]
        one = torch.where(longest > 0, torch.ones_like(longest), longest)  # 0 and NaN stay: no perturbation
        if self.p == math.inf:
            return Ascent(ascent.parameters, signs, torch.where(longest.isfinite(), one, longest), disposable=True)
        peaks = [sign * (v.abs() == longest) for v, sign in zip(ascent.vectors, signs, strict=True)]
        count = torch.stack([peak.abs().sum() for peak in peaks]).sum()
        return Ascent(ascent.parameters, peaks, torch.where(longest.isfinite(), count, longest), disposable=True)

    def project(self, perturbation: list[Tensor], parameters: list[Tensor], rho: float) -> list[Tensor]:
        """The nearest point (in the 2-norm) with ‖ε‖_p ≤ ρ."""
        if self.p == math.inf:
            return [tensor.clamp(-rho, rho) for tensor in perturbation]
        if self.p == 2:
            shrink = (rho * norms.inverse(norms.norm(perturbation, parameters))).clamp(max=1.0)
            return [tensor * shrink.to(tensor.dtype) for tensor in perturbation]
        threshold = _simplex_threshold(torch.cat([tensor.abs().flatten() for tensor in perturbation]), rho)
        return [tensor.sign() * (tensor.abs() - threshold).clamp(min=0) for tensor in perturbation]


def _simplex_threshold(magnitudes: Tensor, radius: float) -> Tensor:
    """θ ≥ 0 such that Σ max(x − θ, 0) = radius, or 0 if Σ x ≤ radius (Duchi et al. 2008, fig. 1)."""
    ordered = magnitudes.sort(descending=True).values
    counts = torch.arange(1, len(ordered) + 1, device=ordered.device, dtype=ordered.dtype)
    candidates = (ordered.cumsum(0) - radius) / counts
    last = (ordered > candidates).sum() - 1
    return candidates.gather(0, last.clamp(min=0)[None])[0].clamp(min=0)


class Climb(Direction):
    """The gradient, followed for n steps of projected ascent."""

    def __init__(self, *, steps: int, stride: float | None = None) -> None:
        if steps < 1:
            raise ValueError(f"expected at least one step, got {steps}")
        self.steps = steps
        self.stride = 1 / steps if stride is None else stride
        if not 0 < self.stride <= 1:
            raise ValueError(f"expected a stride in (0, 1] of the radius, got {stride}")

    def bind(self, optimizer: Seen) -> None:
        """Refuse a metric that knows no projection."""
        super().bind(optimizer)
        if not isinstance(optimizer.axes["metric"], Ball):
            raise ValueError(
                "several steps of ascent are projected onto a ball: expected metric=Ball(p), got "
                f"{type(optimizer.axes['metric']).__name__}"
            )

    def __call__(self, step: Step) -> Ascent:
        """The first step."""
        self._radius(step.optimizer)
        return Ascent(
            step.clean.parameters,
            step.clean.tensors,
            step.clean.norm,
            disposable=step.clean.disposable,
            fraction=self.stride,
        )

    def at_perturbed(self, step: Step, evaluate: Callable[[], object]) -> None:
        """The other steps."""
        assert step.displacement is not None
        for _ in range(self.steps - 1 if step.displacement.parameters else 0):
            evaluate()
            self._move_on(step, step.displacement)

    def _move_on(self, step: Step, displacement: Displacement) -> None:
        optimizer = step.optimizer
        ball, rho = optimizer.axes["metric"], self._radius(optimizer)
        assert isinstance(ball, Ball)
        parameters, clean = displacement.parameters, displacement.clean
        here = norms.shards(parameters)
        gradients = norms.shards([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        ascent = ball(step, Ascent(parameters, gradients))
        assert isinstance(ascent.scale, Tensor)
        finite = ascent.scale.isfinite()
        optimizer.count_skipped_ascent((~finite).int())
        radii = optimizer.radius
        factor = self.stride * norms.inverse(ascent.scale)
        steps = norms.finite_or_zero(ascent.vectors, finite)
        moved = [p - w for p, w in zip(here, clean, strict=True)]
        for parameter, there, u in zip(parameters, moved, steps, strict=True):
            norms.add_scaled(there, u, factor * radii[parameter])
        torch._foreach_copy_(here, torch._foreach_add(clean, ball.project(moved, parameters, rho)))

    def _radius(self, optimizer: Seen) -> float:
        radii = {group["rho"] for group in optimizer.param_groups}
        if len(radii) > 1:
            raise ValueError(f"several steps of ascent have one ball: expected one rho, got {sorted(radii)}")
        return radii.pop()


@register(
    "multistep_sam",
    gradients=lambda steps: (4 * steps,),
    one_ball=True,
    cost="n + 1",
    state="3 during the step",
    reference="Foret et al. 2021",
    rho_range=(0.02, 0.5),
)
class MultistepSAM(SharpnessAware):
    """Climb by n projected steps in a p-norm ball, p ∈ {1, 2, ∞}, before the descent gradient is taken."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        steps: int = 3,
        p: Annotated[float, unbounded] = 2,
        stride: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, direction=Climb(steps=steps, stride=stride), metric=Ball(p), **options)

r"""ESAM: perturb a random part of the tensors, and take the second gradient on the examples that got sharper only.

    ε_i = ρ/β · g_i/‖g‖ with probability β for each tensor i, else 0
    g_s = ∇ of the mean loss at w + ε over the fraction γ of examples whose loss rose most (at least one)

‖g‖ is the norm of all tensors, so that ε is SAM's on average. (The authors' code takes the first gradient of the tensors
to be moved alone, which is where it saves time, and their norm.) Which tensors move is a function of `seed` and the
number of gradients so far. γ < 1 needs a `BatchClosure`, and one forward pass over the batch at w + ε to see which losses
rose.

Cost: 1 + γ gradients, as γ of the examples are in the second one, and the forward pass; `gradient_evaluations` counts 2.
State: the clean copy of the tensors that move.

Du et al. 2022, https://arxiv.org/abs/2110.03141
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from optimizers.core import draws
from optimizers.core.axes import Euclidean, Metric
from optimizers.core.closures import Closure, batch_closure
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import Seed


class RandomTensors(Metric):
    """Each tensor of ε with probability β, 1/β times as long, so that the mean is the Euclidean ε."""

    def __init__(self, *, beta: float = 0.5, seed: int = 0) -> None:
        if not 0 < beta <= 1:
            raise ValueError(f"expected beta in (0, 1], got {beta}")
        self.beta = beta
        self.seed = seed
        self._whole = Euclidean()

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """The chosen tensors, over β times the norm of all."""
        ascent = self._whole(step, ascent)
        if self.beta == 1 or not ascent.parameters:
            return ascent
        # on the host: no two replicas choose differently, and nothing waits for the device
        generator = draws.generator(self.seed, step.optimizer.gradient_evaluations)
        chosen = torch.rand(len(ascent.parameters), generator=generator) < self.beta
        moved = [(p, v) for p, v, move in zip(ascent.parameters, ascent.vectors, chosen.tolist(), strict=True) if move]
        assert isinstance(ascent.scale, torch.Tensor)
        scale = ascent.scale * self.beta
        return Ascent([p for p, _ in moved], [v for _, v in moved], scale, disposable=ascent.disposable)


@register(
    "esam",
    forward_passes=lambda steps: (3 * steps,),
    needs_batch=True,
    cost="1 + γ, and one forward pass",
    state="β during the step",
    reference="Du et al. 2022",
    rho_range=(0.02, 0.5),
)
class ESAM(SharpnessAware):
    """Perturb tensors with probability β; second gradient on the fraction γ of examples whose loss rose most."""

    settings = (*SharpnessAware.settings, "gamma")

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        beta: float = 0.5,
        gamma: float = 0.5,
        seed: Seed = 0,
        **options: Any,
    ) -> None:
        if not 0 < gamma <= 1:
            raise ValueError(f"expected gamma in (0, 1], got {gamma}")
        self.gamma = gamma
        super().__init__(base, rho=rho, metric=RandomTensors(beta=beta, seed=seed), **options)

    def check_closure(self, closure: Closure) -> None:
        """Refuse a closure without its examples, where some are to be chosen."""
        if self.gamma < 1:
            batch_closure(closure, f"ESAM with gamma={self.gamma} chooses examples by their losses")

    def descent_closure(self, step: Step) -> Closure:
        """The examples whose loss rose most."""
        closure = super().descent_closure(step)
        if self.gamma == 1:
            return closure
        batch = batch_closure(closure, "ESAM")
        assert batch.outputs is not None
        rise = batch.losses_now() - batch.losses(batch.outputs)
        if any(group.get("maximize", False) for group in self.param_groups):
            rise = -rise
        return batch.select(rise.topk(max(1, round(self.gamma * len(batch)))).indices)

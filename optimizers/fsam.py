r"""Friendly SAM: climb along what is particular to the minibatch, and leave the full gradient out of ε.

    m_t = λ m_{t−1} + (1−λ) g_t,   d = g_t − σ m_t,   ε = ρ d/‖d‖

m follows the clean gradients (fed with the already subtracted ones it would end at half the full gradient, and d would
still contain the rest). As in the authors' code m_0 = g_0 and d_0 = g_0. That code subtracts m_{t−1} (`previous=True`):
for σ = 1 the same direction, since g − m_t = λ (g − m_{t−1}).

For σ = 1 ε is along g − m_{t−1}, too: λ says how old the average is, not how much of it is taken away.

`lmbda="auto"` learns λ from the gradients themselves, for an eleventh of a copy more; see `optimizers/core/tracking.py`. A
gradient that is not finite is left out of m.

Cost: two gradients. State: m, one copy (in float32 at least); the clean weights beside it during a step.

Li, Zhou, He, Cheng, Huang 2024, https://arxiv.org/abs/2403.12350
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.core import gradient_average, norms, tracking
from optimizers.core.axes import Direction
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step


class Friendly(Direction):
    """d = g − σ m, with m the running average of the gradients at w."""

    counters = ("gain",)

    def __init__(self, *, sigma: float = 1.0, lmbda: float | Literal["auto"] = 0.9, previous: bool = False) -> None:
        if lmbda != "auto" and not 0 <= lmbda < 1:
            raise ValueError(f'expected lmbda in [0, 1) or "auto", got {lmbda}')
        if previous and lmbda in ("auto", 0):
            raise ValueError(f"previous=True goes back from m_t to m_(t−1), which needs a fixed lmbda > 0; got {lmbda}")
        self.sigma = sigma
        self.lmbda = lmbda
        self.previous = previous
        self.gain = tracking.initial(0.1)
        self._new: set[Tensor] = set()

    def observe(self, step: Step) -> None:
        """Move the average towards g: m ← m + (1−λ)(g − m), starting from m = g."""
        weight: float | Tensor
        if self.lmbda == "auto":
            before = gradient_average.averages(step.optimizer, step.clean.parameters)
            later = step.later(self)
            later["gain"] = tracking.follow(step.optimizer, step.clean, before, later.get("gain", self.gain))
            weight = later["gain"][0]
        else:
            weight = 1 - self.lmbda
        self._new = gradient_average.update(step.optimizer, step.clean, weight, from_zero=False)

    def __call__(self, step: Step) -> Ascent:
        """g − σ m_t, or g − σ m_{t−1} with m_{t−1} = (m_t − (1−λ) g)/λ; g itself where there was no m before."""
        own, common = 1.0, -self.sigma
        if self.previous and self.lmbda != "auto":
            own, common = 1 + self.sigma * (1 - self.lmbda) / self.lmbda, -self.sigma / self.lmbda
        vectors = [norms.widened(g) for g in step.clean.tensors]
        if not step.clean.disposable:
            vectors = [v.clone() if v is g else v for v, g in zip(vectors, step.clean.tensors, strict=True)]
        averages = gradient_average.averages(step.optimizer, step.clean.parameters)
        known = [i for i, parameter in enumerate(step.clean.parameters) if parameter not in self._new]
        if known and own != 1:
            torch._foreach_mul_([vectors[i] for i in known], own)
        if known:
            torch._foreach_add_([vectors[i] for i in known], [averages[i] for i in known], alpha=common)
        return Ascent(step.clean.parameters, vectors, disposable=True)


@register(
    "fsam",
    copies=(1, 2),
    reference="Li et al. 2024 (F-SAM)",
    rho_range=(0.05, 0.5),
)
class FSAM(SharpnessAware):
    """Perturb along the minibatch's own part of the gradient: d = g − σ m, ε = ρ d/‖d‖. ρ = 0.2 (CIFAR-100)."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.2,
        sigma: float = 1.0,
        lmbda: float | Literal["auto"] = 0.9,
        previous: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, direction=Friendly(sigma=sigma, lmbda=lmbda, previous=previous), **options)

r"""Reusing the part of the perturbed gradient that the perturbation made.

    climb        h = g_s − g,  c = 1,   d = g_s
    otherwise    c ← γ c,   d = g + c h     for `reuses` steps, then d = g

Deng et al. 2024 (vSAM), https://arxiv.org/abs/2403.08821
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from optimizers.core.gradients import BothGradients, Gradient
from optimizers.core.reuse import Reuse, in_place

if TYPE_CHECKING:
    from optimizers.core.sharpness_aware import SharpnessAware

_KEY = "psf"


class DecayedPSF(Reuse):
    """Between climbs add the last h = g_s − g, each time γ times as much, at most `reuses` times."""

    counters = ("age",)

    def __init__(self, *, gamma: float = 0.7, reuses: int = 6) -> None:
        if not 0 < gamma <= 1:
            raise ValueError(f"expected gamma in (0, 1], got {gamma}")
        self.gamma = gamma
        self.reuses = reuses
        self.age = 0

    def before_ascent(self, optimizer: SharpnessAware) -> None:
        """Drop what a new ascent replaces."""
        for state in optimizer.state.values():
            state.pop(_KEY, None)

    def after_ascent(self, optimizer: SharpnessAware, both: BothGradients) -> None:
        """Keep h; descend along g_s."""
        self.age = 0
        for parameter, tensor in zip(both.psf.parameters, both.psf.tensors, strict=True):
            optimizer.state[parameter][_KEY] = tensor

    def without_ascent(self, optimizer: SharpnessAware, clean: Gradient) -> None:
        """d = g + γ^age h."""
        self.age += 1
        if self.age > self.reuses:
            return
        pairs = [
            (g, optimizer.state[p][_KEY])
            for p, g in zip(clean.parameters, in_place(clean), strict=True)
            if _KEY in optimizer.state[p]
        ]
        if pairs:
            torch._foreach_add_([g for g, _ in pairs], [h for _, h in pairs], alpha=self.gamma**self.age)

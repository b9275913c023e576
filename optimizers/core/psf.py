r"""Reusing the part of the perturbed gradient that the perturbation made.

    climb        h = g_s − g,  c = 1,   d = g_s
    otherwise    c ← γ c,   d = g + c h     for `reuses` steps, then d = g

Deng et al. 2024 (vSAM), https://arxiv.org/abs/2403.08821
"""

from __future__ import annotations

import torch

from optimizers.core.axes import Reuse, in_place
from optimizers.core.step import Step

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

    def before_ascent(self, step: Step) -> None:
        """Drop what a new ascent replaces."""
        for state in step.optimizer.state.values():
            state.pop(_KEY, None)

    def after_ascent(self, step: Step) -> None:
        """Keep h; descend along g_s."""
        step.later(self)["age"] = 0
        for parameter, tensor in zip(step.psf.parameters, step.psf.tensors, strict=True):
            step.optimizer.state[parameter][_KEY] = tensor

    def without_ascent(self, step: Step) -> None:
        """d = g + γ^age h."""
        age = step.later(self)["age"] = self.age + 1
        if age > self.reuses:
            return
        pairs = [
            (g, step.optimizer.state[p][_KEY])
            for p, g in zip(step.clean.parameters, in_place(step.clean), strict=True)
            if _KEY in step.optimizer.state[p]
        ]
        if pairs:
            torch._foreach_add_([g for g, _ in pairs], [h for _, h in pairs], alpha=self.gamma**age)

"""The gradients that one step gathers: at the clean weights, at the perturbed ones, and the difference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from optimizers import norms
from optimizers.closures import Closure


@dataclass
class Gradient:
    """A vector of weight space: `parameters` and, beside each, its part of the vector (its local shard under FSDP2)."""

    parameters: list[Tensor]
    tensors: list[Tensor]
    disposable: bool = False
    """Whether the tensors may be overwritten: nobody needs them afterwards."""

    @cached_property
    def norm(self) -> Tensor:
        """Its global norm, 0-dimensional, on the device; computed once, when it is first asked for."""
        return norms.norm(self.tensors, self.parameters)


NOTHING = Gradient([], [])


@dataclass
class BothGradients:
    """The gradient g at w beside the gradient g_s at w + ε, which `.grad` holds, where a parameter has both."""

    clean: Gradient
    closure: Closure

    @property
    def finite(self) -> Tensor:
        """Whether g is finite (0-dimensional, on the device)."""
        return self.clean.norm.isfinite()

    @cached_property
    def pairs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Parameters, their parts of g (zeros if g is not `finite`), and of g_s: what `.grad` holds, not copies."""
        clean = norms.finite_or_zero(self.clean.tensors, self.finite, in_place=True)  # ours since the ascent
        present = [(p, g, p.grad) for p, g in zip(self.clean.parameters, clean, strict=True) if p.grad is not None]
        for position, (parameter, g, descent) in enumerate(present):
            if descent.layout is not torch.strided:
                parameter.grad = descent.to_dense()
                present[position] = (parameter, g, parameter.grad)
        return [p for p, _, _ in present], [g for _, g, _ in present], norms.shards([d for _, _, d in present])

    @cached_property
    def psf(self) -> Gradient:
        """h = g_s − g, the part of the perturbed gradient that the perturbation made (≈ ρ H g/‖g‖); 0 if not finite."""
        parameters, clean, descent = self.pairs
        h = Gradient(parameters, list(torch._foreach_sub(descent, clean)) if parameters else [])
        finite = self.finite & h.norm.isfinite().to(self.finite.device)
        h.tensors = norms.finite_or_zero(h.tensors, finite, in_place=True)
        h.norm = torch.where(finite.to(h.norm.device), h.norm, 0.0)
        return h

"""Balls that no single paper owns: none at all, and one for each tensor."""

from __future__ import annotations

import math

import torch

from optimizers.core import norms
from optimizers.core.axes import Metric
from optimizers.core.step import Ascent, Step


class Unnormalized(Metric):
    """No ball at all: ε = ρ d, as long as the direction is. With MSAM and ρ = ημ this is Nesterov's method."""

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """The direction as it is, over 1; over its length where that is not finite, which nobody climbs along."""
        if ascent.vectors:
            length = norms.norm(ascent.vectors, ascent.parameters) if ascent.scale is None else ascent.scale
            assert isinstance(length, torch.Tensor)
            ascent.scale = torch.where(length.isfinite(), 1.0, length)
        return ascent


class PerTensor(Metric):
    """A ball for each tensor, of radius ρ √(n_i/n): the global radius shared out by size, so that no layer takes it all.

    ‖ε‖ = ρ still, if every tensor has a direction.
    """

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """The direction as it is, each tensor over √(n/n_i) of its own norm."""
        sizes = [parameter.numel() for parameter in ascent.parameters]
        ascent.scale = [
            norms.norm([vector], [parameter]) * math.sqrt(sum(sizes) / size)
            for parameter, vector, size in zip(ascent.parameters, ascent.vectors, sizes, strict=True)
        ]
        return ascent

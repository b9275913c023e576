r"""The geometry of the ball ‖ε‖ ≤ ρ: how a direction d becomes a perturbation.

A metric turns d into another vector and the scale that ρ is divided by:  ε = ρ · vector / scale.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from optimizers import norms
from optimizers.axis import Axis
from optimizers.directions import Ascent

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


class Metric(Axis, ABC):
    """The second choice: what counts as far."""

    @abstractmethod
    def __call__(self, optimizer: SharpnessAware, ascent: Ascent) -> Ascent:
        """`ascent` in this geometry, with its `scale`."""


class Unnormalized(Metric):
    """No ball at all: ε = ρ d, as long as the direction is. With MSAM and ρ = ημ this is Nesterov's method."""

    def __call__(self, optimizer: SharpnessAware, ascent: Ascent) -> Ascent:
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

    def __call__(self, optimizer: SharpnessAware, ascent: Ascent) -> Ascent:
        """The direction as it is, each tensor over √(n/n_i) of its own norm."""
        sizes = [parameter.numel() for parameter in ascent.parameters]
        ascent.scale = [
            norms.norm([vector], [parameter]) * math.sqrt(sum(sizes) / size)
            for parameter, vector, size in zip(ascent.parameters, ascent.vectors, sizes, strict=True)
        ]
        return ascent


class Euclidean(Metric):
    """One global L2 ball over every tensor of every group: ε = ρ d/‖d‖."""

    def __call__(self, optimizer: SharpnessAware, ascent: Ascent) -> Ascent:
        """The direction as it is, over its global norm."""
        if ascent.scale is None:
            ascent.scale = norms.norm(ascent.vectors, ascent.parameters)
        return ascent

r"""The geometry of the ball ‖ε‖ ≤ ρ: how a direction d becomes a perturbation.

A metric turns d into another vector and the scale that ρ is divided by:  ε = ρ · vector / scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

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


class Euclidean(Metric):
    """One global L2 ball over every tensor of every group: ε = ρ d/‖d‖."""

    def __call__(self, optimizer: SharpnessAware, ascent: Ascent) -> Ascent:
        """The direction as it is, over its global norm."""
        if ascent.scale is None:
            ascent.scale = norms.norm(ascent.vectors)
        return ascent

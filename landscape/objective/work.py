"""How much work an objective has done, in examples: exact counters that objectives made from it add to as well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """Examples passed forward for values, differentiated for gradients, and multiplied with in curvature products."""

    parent: Work | None = None
    forward: int = 0
    gradient: int = 0
    hessian: int = 0

    def add(self, *, forward: int = 0, gradient: int = 0, hessian: int = 0) -> None:
        """Count here and in every parent."""
        self.forward += forward
        self.gradient += gradient
        self.hessian += hessian
        if self.parent is not None:
            self.parent.add(forward=forward, gradient=gradient, hessian=hessian)

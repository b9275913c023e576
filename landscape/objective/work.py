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


class Counted:
    """What an objective and those made from it by `on` have cost, in passes over all the data."""

    _work: Work

    @property
    def local_examples(self) -> int:
        """Examples in the batches of this process."""
        raise NotImplementedError

    @property
    def evaluations(self) -> float:
        """Forward passes made for loss values."""
        return self._work.forward / self.local_examples

    @property
    def gradient_evaluations(self) -> float:
        """Gradients computed, those inside curvature products not included."""
        return self._work.gradient / self.local_examples

    @property
    def hessian_products(self) -> float:
        """Vectors multiplied by a curvature matrix (Hessian, Gauss–Newton or Fisher) of all the data."""
        return self._work.hessian / self.local_examples

    def record(self, *, forward: int = 0, gradient: int = 0, hessian: int = 0) -> None:
        """Add work, in examples, to the counters of this objective and of those it was made from."""
        self._work.add(forward=forward, gradient=gradient, hessian=hessian)

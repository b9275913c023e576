r"""Which end of the spectrum is wanted, and when its pairs are good enough.

A pair (θ, v) is good enough when ‖A v − θ v‖ ≤ max(tol·|θ|, floor·‖A‖), ‖A‖ the largest |θ| seen and floor = min(tol,
10 ε), ε the rounding unit of the operator: a zero eigenvalue has no relative accuracy, only absolute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analyses.krylov_decomposition import RitzPairs
from analyses.unseen_eigenvalues import gaps

Which = Literal["LA", "SA", "LM", "BE"]
MET = "every residual met the tolerance"
REACHABLE = 10  # relative residuals below this many rounding units are not asked for


@dataclass(frozen=True)
class SpectrumEnd:
    """The `k` pairs at the end `which`, each to the relative residual `tol`; `epsilon` is the operator's rounding
    unit.
    """

    k: int
    which: Which
    tol: float
    epsilon: float

    def order(self, values: np.ndarray) -> np.ndarray:
        """Indices of `values` from the most to the least wanted."""
        if self.which == "LA":
            return np.argsort(-values)
        if self.which == "SA":
            return np.argsort(values)
        if self.which == "LM":
            return np.argsort(-np.abs(values))
        ascending = np.argsort(values)  # BE: largest, smallest, second largest, ...
        alternating = np.empty_like(ascending)
        alternating[0::2] = ascending[::-1][: len(ascending[0::2])]
        alternating[1::2] = ascending[: len(ascending[1::2])]
        return alternating

    def thresholds(self, values: np.ndarray, norm: float) -> np.ndarray:
        """The residual each pair must reach; `norm` is ‖A‖."""
        return np.maximum(self.tol * np.abs(values), min(self.tol, REACHABLE * self.epsilon) * norm)

    def distance(self, ritz: RitzPairs) -> np.ndarray:
        """Residuals of the wanted pairs in units of what they must reach: (k,)."""
        thresholds = self.thresholds(ritz.values[: self.k], np.abs(ritz.values).max())
        return ritz.residuals[: self.k] / np.maximum(thresholds, np.finfo(float).tiny)

    def verdict(self, ritz: RitzPairs) -> str:
        """Why the search may stop, or an empty text while it must go on."""
        norm = np.abs(ritz.values).max()
        thresholds = self.thresholds(ritz.values[: self.k], norm)
        open_ = ritz.residuals[: self.k] > thresholds
        if not open_.any():
            return MET
        # A larger basis lowers only the truncation; once that is at rounding level, nothing more can be gained.
        at_rounding = ritz.truncation[: self.k] <= np.maximum(0.1 * thresholds, self.epsilon * norm)
        if at_rounding[open_].all():
            worst = (ritz.residuals[: self.k][open_] / np.abs(ritz.values[: self.k][open_]).clip(1e-300)).max()
            return (
                f"tol={self.tol:g} is beyond the arithmetic: the products' rounding leaves a relative residual of {worst:.1e}; "
                "a wider dtype goes further"
            )
        return ""

    def hiding_places(self, ritz: RitzPairs) -> np.ndarray:
        """Where an eigenvalue that no Ritz value shows would belong among the k wanted: (g, 3), three places a gap."""
        wanted = ritz.values[: self.k]
        points = gaps(wanted, ritz.values)
        belongs = [self.k in self.order(np.append(wanted, gap[1]))[: self.k] for gap in points]
        return points[np.array(belongs, dtype=bool)]

    def progress(self, ritz: RitzPairs, scale: float) -> str:
        """The state of the search in a few words; the values are in units of `scale`."""
        relative = ritz.residuals[: self.k] / np.abs(ritz.values[: self.k]).clip(1e-300)
        met = f"{int((relative <= self.tol).sum())}/{self.k} met"
        return f"largest {scale * ritz.values[0]:.4g}, {met}, worst {relative.max():.1e}"

    def kept(self, size: int) -> int:
        """How many Ritz vectors a restart of a basis of `size` vectors keeps."""
        return min(self.k + (size - self.k) // 2, size - 1)

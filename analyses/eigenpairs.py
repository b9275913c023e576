r"""What a search for eigenpairs returns: the pairs, what each is worth, and what they cost.

    |λ − θ| ≤ ‖A v − θ v‖ for some eigenvalue λ,    |λ − θ| ≤ ‖A v − θ v‖²/gap    where no other lies within the gap

References: Parlett (1998), sections 4.5 and 11.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyses.krylov_decomposition import RitzPairs
from analyses.scaled_operator import ScaledOperator
from analyses.spectrum_end import SpectrumEnd, Which


@dataclass(frozen=True)
class Eigenpairs:
    """What `lanczos` found, in the order wanted (LA: descending, SA: ascending, LM: by magnitude, BE: both ends in
    turn).
    """

    values: Tensor  # (k,) float64, on the host
    vectors: Tensor  # (n, k) orthonormal, on the operator's device
    residuals: Tensor  # (k,) float64: ‖A v − θ v‖
    error_bounds: Tensor  # (k,) float64: an eigenvalue of A lies within this of θ (‖r‖ and the products' errors)
    gap_bounds: Tensor  # (k,) float64: the sharper ‖r‖²/gap, true if no eigenvalue hides between the Ritz values
    converged_pairs: Tensor  # (k,) bool: ‖A v − θ v‖ ≤ tol·|θ|
    converged: bool  # all of them
    matvecs: int  # products with A, those of the verification included
    verification_matvecs: int  # products spent after the search on checking its residuals
    restarts: int
    message: str  # why it stopped
    unseen_distinct: (
        float  # the probability that a distinct one among the k was overlooked (not a copy of one); NaN: not known
    )

    def times(self, scale: float) -> Eigenpairs:
        """The pairs of scale · A, scale positive, where these are those of A."""
        in_units = ("values", "residuals", "error_bounds", "gap_bounds")
        return replace(self, **{name: scale * getattr(self, name) for name in in_units})


def measured(operator: Any, vectors: Tensor, which: Which, tol: float, matvecs: int, message: str) -> Eigenpairs:
    """What `vectors` (n, k), found by anything in `matvecs` products, are worth as eigenvectors of `operator`."""
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=0)
    scaled = ScaledOperator(operator)
    values, residuals = rayleigh(scaled, vectors)
    end = SpectrumEnd(len(values), which, tol, torch.finfo(vectors.dtype).eps)
    pairs = eigenpairs(end, values, residuals, vectors, matvecs=matvecs, checks=len(values), message=message)
    return pairs.times(scaled.scale)


def rayleigh(operator: Any, vectors: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rayleigh quotients and residual norms of the columns of `vectors`. Cost: a product each."""
    values, residuals = np.empty(vectors.shape[1]), np.empty(vectors.shape[1])
    for i, v in enumerate(vectors.T):
        product = (operator @ v).to(v.dtype)
        values[i] = float(v @ product)
        residuals[i] = float(torch.linalg.vector_norm(torch.sub(product, v, alpha=values[i])))
    return values, residuals


def eigenpairs(
    end: SpectrumEnd,
    values: np.ndarray,
    residuals: np.ndarray,
    vectors: Tensor,
    *,
    matvecs: int,
    checks: int,
    message: str,
    finished: bool = True,
    restarts: int = 0,
    others: RitzPairs | None = None,
    doubt: float = 0.0,
    unseen_distinct: float = math.nan,
) -> Eigenpairs:
    """Pairs with their bounds; `others` are Ritz pairs besides these, for the gaps, `doubt` what the residuals may lack."""
    everything, k = values, len(values)
    uncertainty = residuals
    if others is not None:
        everything = np.concatenate([values, others.values])
        uncertainty = np.concatenate([residuals, others.residuals])
    norm = float(np.abs(everything).max())
    met = residuals <= end.thresholds(values, norm)
    distances = np.abs(everything - values[:, None]) - uncertainty
    distances[np.arange(k), np.arange(k)] = np.inf
    gaps = np.maximum(distances.min(1), residuals)  # ‖r‖²/gap is the sharper bound only where the gap exceeds ‖r‖
    rounding = 10 * end.epsilon * norm + doubt
    return Eigenpairs(
        values=torch.from_numpy(values.copy()),
        vectors=vectors,
        residuals=torch.from_numpy(residuals),
        error_bounds=torch.from_numpy(residuals + rounding),
        gap_bounds=torch.from_numpy(residuals**2 / gaps.clip(1e-300) + rounding),
        converged_pairs=torch.from_numpy(met),
        converged=bool(met.all()) and finished and k == end.k,
        matvecs=matvecs + checks,
        verification_matvecs=checks,
        restarts=restarts,
        message=message,
        unseen_distinct=unseen_distinct,
    )

r"""How likely it is that a search from a random vector met its tolerance and yet overlooked an eigenvalue.

Small residuals say that each value found is an eigenvalue, not that none lies between them: a Krylov space grows towards
an eigenvector u only from the share u·v₀ of it in the starting vector. But how small that share must have been is known.
From A u = λ u and the decomposition A V = V B + p cᵀ,

    uᵀV = (u·p) cᵀ(λ − B)⁻¹,   (u·p)² + ‖uᵀV‖² ≤ 1,   v₀ = V e₁

so an eigenvalue λ that is no Ritz value requires

    |u·v₀| ≤ s(λ) = |cᵀ(λ − B)⁻¹e₁| / √(1 + ‖cᵀ(λ − B)⁻¹‖²).

For v₀ uniform on the sphere √n u·v₀ is standard normal, nearly: the probability of so small a share is erf(s(λ)√(n/2)).
Each product lowers it by a factor, as it lowers the residuals; when these meet 1e-3 it is of the order of 1e-2.

It speaks of distinct eigenvalues: copies of one that was found, and what lies within NARROW of it, look the same to any
single start. `lanczos(..., multiplicity=True)` searches for copies.

References: the bound is Parseval's for the Lanczos polynomials; compare Kuczyński and Woźniakowski (1992) on random
starts.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf

UNSEEN = 1e-4  # what the analyses of trained networks ask for
NARROW = 5e-3  # relative: what lies closer than this to one found is a copy of it, which no single vector can exclude


def gaps(found: np.ndarray, ritz: np.ndarray) -> np.ndarray:
    """Where an eigenvalue could hide, (g, 3): quarters of each gap between Ritz values, and a place beyond either end.

    `found` are the wanted Ritz values, `ritz` all of them. Gaps of quarters narrower than NARROW are left out.
    """
    ordered = np.sort(ritz)
    widths = np.diff(ordered)
    wide = widths > 4 * NARROW * np.maximum(np.abs(ordered[1:]), np.abs(found).min())
    inner = ordered[:-1, None] + widths[:, None] * np.array([0.25, 0.5, 0.75])
    width = max((ordered[-1] - ordered[0]) / 10, NARROW * float(np.abs(ordered).max()))
    outer = np.repeat([[ordered[0] - width], [ordered[-1] + width]], 3, axis=1)
    return np.concatenate([inner[wide], outer])


def probability_unseen(matrix: np.ndarray, tail: np.ndarray, n: int, points: np.ndarray) -> float:
    """The probability that a distinct eigenvalue went unseen from a random start of length `n`, one being in each gap.

    `matrix` (j, j) is B, symmetric, `tail` (j,) is c, `points` (g, q) are places in g gaps: the largest probability of
    each gap, summed over the gaps. Cost: a few operations on j × j numbers.
    """
    if not points.size or not tail.any():
        return 0.0
    values, vectors = np.linalg.eigh(matrix)
    resolved = (vectors.T @ tail) / (points[..., None] - values)  # cᵀ(λ − B)⁻¹ in the eigenbasis of B
    share = np.abs(resolved @ vectors[0]) / np.sqrt(1 + (resolved**2).sum(-1))
    return min(1.0, float(erf(share.max(1) * np.sqrt(n / 2)).sum()))

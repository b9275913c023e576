r"""Paired comparisons over seeds, and Holm's correction for asking several at once: pure functions of arrays.

    d_s = quantity(method, seed s) − quantity(versus, seed s),   t = d̄ / (s/√S),   S − 1 degrees of freedom

Of a family of m claims none of which is true, at least one has p < 0.05 with probability 1 − 0.95^m, 37 % for nine. Holm's
step-down procedure keeps that probability at 5 % for the whole family, whatever the claims have to do with each other.

Reference: Holm 1979, https://www.jstor.org/stable/4615733.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.05  # the probability of any false verdict in a family of claims
ROUNDING = 1e-9  # a spread below this part of the differences is that of the arithmetic and of no seed


@dataclass(frozen=True)
class Comparison:
    """The mean of paired differences, the half-width of its own 95 % interval, and the two-sided p of no difference."""

    difference: float
    half_width: float
    p: float


def compare(differences: np.ndarray) -> Comparison:
    """Student's paired t-test of `differences`, one for each seed; p is 1 where one of them is not known, or fewer than 2.

    Differences that are all the same, up to rounding, say nothing of their spread; then p is that of their signs alone,
    2^(1 − S).
    """
    if differences.size < 2 or not np.isfinite(differences).all():
        known = differences[np.isfinite(differences)]
        return Comparison(float(known.mean()) if known.size else float("nan"), float("nan"), 1.0)
    seeds, mean, spread = differences.size, float(differences.mean()), float(differences.std(ddof=1))
    if np.ptp(differences) <= ROUNDING * np.abs(differences).max():
        return Comparison(mean, 0.0, 2.0 ** (1 - seeds) if mean else 1.0)
    error = spread / np.sqrt(seeds)
    half = float(stdtrit(seeds - 1, 1 - LEVEL / 2) * error)
    return Comparison(mean, half, float(2 * stdtr(seeds - 1, -abs(mean) / error)))


def holm(p: np.ndarray) -> np.ndarray:
    """The p-values of one family, adjusted so that refusing below `LEVEL` errs in at most that share of families.

    Sorted p_(1) ≤ … ≤ p_(m):  p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)).
    """
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, (len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted

r"""Whether a claim holds here: a paired comparison over seeds, with its uncertainty.

    d_s = quantity(method, seed s) − quantity(versus, seed s),   d̄ ± t s/√S

with t the two-sided 95 % quantile of Student's distribution, S − 1 degrees of freedom. HOLDS where the interval lies
on the claimed side of zero, REVERSED where it lies on the other, NOT RESOLVED where it contains zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analyses.studies.results import Results, quantity
from analyses.studies.study import Claim


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim: the mean difference, the half-width of its 95 % interval, the seeds, and the word."""

    claim: Claim
    difference: float
    half_width: float
    seeds: int
    word: str


def paired(differences: np.ndarray, direction: str) -> tuple[float, float, str]:
    """Mean difference, half-width of its 95 % interval, and the verdict for a claimed `direction`, less or greater."""
    finite = differences[np.isfinite(differences)]
    if finite.size < 2:
        return (float(finite.mean()) if finite.size else float("nan")), float("nan"), "NOT RESOLVED"
    mean = float(finite.mean())
    half = float(stats.t.ppf(0.975, finite.size - 1) * finite.std(ddof=1) / np.sqrt(finite.size))
    if abs(mean) <= half:
        return mean, half, "NOT RESOLVED"
    return mean, half, "HOLDS" if (mean < 0) == (direction == "less") else "REVERSED"


def judge(claim: Claim, results: Results) -> Verdict:
    """The verdict on one claim of the study."""
    numbers = results.numbers(quantity(claim.quantity))
    ours, theirs = numbers[claim.method], numbers[claim.versus]
    seeds = sorted(set(ours) & set(theirs))
    differences = np.array([ours[seed].value - theirs[seed].value for seed in seeds])
    mean, half, word = paired(differences, claim.direction)
    return Verdict(claim, mean, half, int(np.isfinite(differences).sum()), word)

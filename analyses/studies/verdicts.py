"""Whether a study's claims hold: paired comparisons over all its seeds, judged together in families (`analyses.studies.holm`).

A run that diverged is an outcome: it counts with the value that the claim registered for it. Where a run is missing, or
diverged and the claim registered nothing, the claim is NOT RESOLVED: it is not judged by the survivors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analyses.studies.holm import compare, holm, verdict_word
from analyses.studies.results import Results, quantity
from analyses.studies.study import Claim


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    `difference` ± `half_width` is the mean paired difference and its own 95 % interval, `seeds` how many pairs are in it,
    `p` adjusted for the other claims of the family, `reason` what stands in the way of a judgement.
    """

    claim: Claim
    difference: float
    half_width: float
    seeds: int
    p: float
    word: str
    reason: str = ""


def outcomes(claim: Claim, method: str, results: Results) -> tuple[list[float], list[str]]:
    """The quantity of each of the study's seeds, NaN where there is none, and what is wrong with those."""
    ask = results.asking(claim.ask) if claim.ask else results
    values, troubles = [], []
    for seed in results.study.seeds:
        run = results.runs[method].get(seed)
        value = float("nan")
        if run is not None:
            value = quantity(claim.quantity).read(ask, run).value
            if not math.isfinite(value):
                troubles.append(f"{method}, seed {seed}: no finite value")
        elif (method, seed) not in results.diverged:
            troubles.append(f"{method}, seed {seed}: missing")
        elif claim.diverged is None:
            troubles.append(f"{method}, seed {seed}: diverged, and the claim names no value `diverged` for that")
        else:
            value = claim.diverged
        values.append(value if math.isfinite(value) else float("nan"))
    return values, troubles


def judge(results: Results) -> list[Verdict]:
    """The verdict on each claim of the study, in its order; Holm's correction within each family."""
    claims = results.study.claims
    found = []
    for claim in claims:
        ours, troubles = outcomes(claim, claim.method, results)
        theirs, further = outcomes(claim, claim.versus, results)
        differences = np.array(ours) - np.array(theirs)
        reason = "; ".join(troubles + further)
        if not reason and len(differences) < 2:
            reason = "one seed says nothing of the spread"
        found.append((compare(differences), int(np.isfinite(differences).sum()), reason))
    p = np.ones(len(claims))
    for family in {claim.family for claim in claims}:
        members = [i for i, claim in enumerate(claims) if claim.family == family]
        p[members] = holm(np.array([found[i][0].p for i in members]))
    return [
        Verdict(
            claim,
            comparison.difference,
            comparison.half_width,
            seeds,
            float(adjusted),
            verdict_word(comparison.difference, float(adjusted), claim.direction),
            reason,
        )
        for claim, (comparison, seeds, reason), adjusted in zip(claims, found, p, strict=True)
    ]

"""The only place that decides whether claims hold: numbers of all runs, read from their files, become verdicts.

    HOLDS              the claimed side at the adjusted level, and |effect| ≥ min_effect
    REVERSED           the other side, likewise
    NOT RESOLVED       neither; or a run is missing, or diverged and the claim registered no value for that: the reason
    NOT TESTABLE HERE  the claim says why it cannot be seen at this scale

A run that diverged is an outcome: it counts with the value that the claim registered for it. A claim is never judged by
the runs that survived. Within a family p is adjusted by Holm's procedure, open claims counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from analyses.studies import outcomes
from analyses.studies.answers import Answers
from analyses.studies.claim import Claim
from analyses.studies.claims import Claims
from analyses.studies.holm import LEVEL, holm
from analyses.studies.plan import answered
from analyses.studies.statistics import Finding, Table, by_name
from analyses.studies.values import Number, value_of

JUDGED = "landscape-toolkit claims"  # the format of claims.h5
OPEN = "NOT RESOLVED"
NOT_TESTABLE = "NOT TESTABLE HERE"
NONE = Number(math.nan, Path(), "")


@dataclass(frozen=True)
class Outcome:
    """What became of one run: whether it is `whole`, `incomplete` (an ask has no answer), `diverged` or `missing`, and why."""

    state: str
    reason: str = ""
    numbers: dict[str, Number] | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim: effect ± half_width over so many seeds, p adjusted for its family, the word and a reason."""

    claim: Claim
    finding: Finding
    seeds: int
    p: float
    word: str
    reason: str = ""


Outcomes = dict[tuple[str, int], Outcome]


def judge(claims: Claims, root: Path) -> xr.Dataset:
    """Numbers, runs and verdicts of `claims`, from the runs below `root`, as one Dataset; reads files and nothing else.

    Dimensions: `claim`; `run`, an arm and a seed each; `column`, a value of the table; `number`, one number of one run.
    """
    answers = Answers(claims, root)
    found = outcomes_of(claims, answers)
    verdicts = decide(claims.claims, claims.seeds, claims.scale, found)
    return _dataset(claims, root, answers, found, verdicts)


def outcomes_of(claims: Claims, answers: Answers) -> Outcomes:
    """What became of each arm and seed."""
    found: Outcomes = {}
    for arm in claims.arms:
        for seed in claims.seeds_of(arm):
            run, digest = answers.runs[arm].get(seed), claims.experiment_of(arm, seed).digest
            failed = outcomes.failed(answers.root, digest)
            if run is not None:
                asked = {ask.name for ask in claims.asks.values() if ask.arms is None or arm in ask.arms}
                wanted = [value for value in claims.values.values() if value.ask is None or value.ask in asked]
                numbers = {value.name: value_of(value, run, claims.asks, answers.read) for value in wanted}
                unanswered = [
                    f"{ask.name}: {failed.get(ask.name, 'not answered')}"
                    for ask in claims.asks.values()
                    if ask.name in asked and not answered(run, ask)
                ]
                state = "incomplete" if unanswered else "whole"
                found[arm, seed] = Outcome(state, "; ".join(unanswered), numbers)
            elif (failure := failed.get(outcomes.TRAINING)) is None:
                found[arm, seed] = Outcome("missing", "it has not been trained")
            elif failure.kind == outcomes.DIVERGED:
                found[arm, seed] = Outcome("diverged", failure.message)
            else:
                found[arm, seed] = Outcome("missing", f"its training failed: {failure}")
    return found


def decide(claims: tuple[Claim, ...], seeds: tuple[int, ...], scale: str, found: Outcomes) -> list[Verdict]:
    """The verdict on each claim, in order; Holm's correction within each family of those that can be tested."""
    drafts = [_found(claim, claim.seeds or seeds, found) for claim in claims]
    testable = [scale not in claim.not_testable for claim in claims]
    p = np.ones(len(claims))
    for family in {claim.family for claim in claims}:
        members = [i for i, claim in enumerate(claims) if claim.family == family and testable[i]]
        p[members] = holm(np.array([drafts[i][0].p for i in members]))
    verdicts = []
    for i, (claim, (finding, whole, reason)) in enumerate(zip(claims, drafts, strict=True)):
        if testable[i]:
            word, small = _word(claim, finding, float(p[i]))
            verdicts.append(Verdict(claim, finding, whole, float(p[i]), word, reason or small))
        else:
            nothing = Finding(math.nan, math.nan, 1.0, False)
            verdicts.append(Verdict(claim, nothing, 0, 1.0, NOT_TESTABLE, claim.not_testable[scale]))
    return verdicts


def _word(claim: Claim, finding: Finding, p: float) -> tuple[str, str]:
    if not p < LEVEL:
        return OPEN, ""
    if claim.direction != "equal" and abs(finding.effect) < claim.min_effect:
        return OPEN, f"the effect is below the smallest of interest, {claim.min_effect:g}"
    return ("HOLDS" if finding.supports else "REVERSED"), ""


def _found(claim: Claim, seeds: Sequence[int], found: Outcomes) -> tuple[Finding, int, str]:
    """What the statistic says, over how many seeds, and what stands in the way of a judgement."""
    troubles: list[str] = []

    def table(value: str, registered: float | None) -> np.ndarray:
        return np.array(
            [[_outcome(value, arm, seed, registered, found, troubles) for seed in seeds] for arm in claim.arms]
        )

    values = table(claim.value, claim.diverged)
    against = None if claim.against is None else table(claim.against, None)
    whole = np.isfinite(values if against is None else values + against).all(axis=0)
    levels = None if claim.levels is None else np.array(claim.levels)
    finding = Finding(math.nan, math.nan, 1.0, False)
    if whole.any():
        cut = None if against is None else against[:, whole]
        finding = by_name(claim.statistic).find(Table(values[:, whole], claim.direction, levels, cut, claim.min_effect))
    reason = "; ".join(dict.fromkeys(troubles))
    if reason:
        finding = Finding(finding.effect, math.nan, 1.0, finding.supports)
    elif len(seeds) < 2:
        reason = "one seed says nothing of the spread"
    return finding, int(whole.sum()), reason


def _outcome(value: str, arm: str, seed: int, registered: float | None, found: Outcomes, troubles: list[str]) -> float:
    """The value of one run, NaN where there is none, and then what is wrong with it."""
    outcome = found.get((arm, seed), Outcome("missing", "it has not been trained"))
    if outcome.state in ("whole", "incomplete"):
        number = (outcome.numbers or {}).get(value, NONE)
        if math.isfinite(number.value):
            return number.value
        why = f" ({outcome.reason or number.dataset})" if outcome.reason or number.dataset else ""
        troubles.append(f"{arm}, seed {seed}: no finite value{why}")
    elif outcome.state == "missing":
        troubles.append(f"{arm}, seed {seed}: missing, {outcome.reason}")
    elif registered is None:
        troubles.append(f"{arm}, seed {seed}: diverged, and the claim names no value `diverged` for that")
    else:
        return registered
    return math.nan


def _dataset(claims: Claims, root: Path, answers: Answers, found: Outcomes, verdicts: list[Verdict]) -> xr.Dataset:
    columns = list(claims.values.values())
    numbers = [
        (arm, seed, name, number)
        for name in claims.values
        for (arm, seed), outcome in found.items()
        if (number := (outcome.numbers or {}).get(name)) is not None
    ]

    def over(dim: str, rows: list, **read: Callable) -> dict[str, tuple[str, np.ndarray]]:
        arrays = {name: [one(row) for row in rows] for name, one in read.items()}
        return {
            f"{dim}_{name}": (dim, np.array(values) if values else np.empty(0, "U1")) for name, values in arrays.items()
        }

    return xr.Dataset(
        {
            **over(
                "claim",
                verdicts,
                statement=lambda v: v.claim.statement,
                source=lambda v: v.claim.source,
                published=lambda v: v.claim.published,
                family=lambda v: v.claim.family,
                value=lambda v: v.claim.value + (f" against {v.claim.against}" if v.claim.against else ""),
                arms=lambda v: ", ".join(v.claim.arms),
                statistic=lambda v: v.claim.statistic,
                direction=lambda v: v.claim.direction,
                min_effect=lambda v: v.claim.min_effect,
                effect=lambda v: v.finding.effect,
                half_width=lambda v: v.finding.half_width,
                seeds=lambda v: v.seeds,
                p=lambda v: v.finding.p,
                p_adjusted=lambda v: v.p,
                verdict=lambda v: v.word,
                reason=lambda v: v.reason,
            ),
            **over(
                "run",
                list(found.items()),
                arm=lambda r: r[0][0],
                seed=lambda r: r[0][1],
                digest=lambda r: claims.experiment_of(*r[0]).digest,
                state=lambda r: r[1].state,
                reason=lambda r: r[1].reason,
            ),
            **over("column", columns, label=lambda c: c.label, unit=lambda c: c.unit, format=lambda c: c.format),
            **over(
                "number",
                numbers,
                arm=lambda n: n[0],
                seed=lambda n: n[1],
                column=lambda n: n[2],
                value=lambda n: n[3].value,
                file=lambda n: n[3].file.relative_to(root).as_posix(),
                dataset=lambda n: n[3].dataset,
            ),
        },
        {
            "claim": [verdict.claim.id for verdict in verdicts] or np.empty(0, "U1"),
            "column": [value.name for value in columns],
        },
        {
            "title": claims.title,
            "scale": claims.scale,
            "transformed": "\n".join(claims.transformed),
            "claims": claims.text,
            "made_with": "; ".join(sorted(_versions(answers))),
        },
    )


def _versions(answers: Answers) -> set[str]:
    """The versions that the last checkpoints of all runs name."""
    last = (run.checkpoint("last").attributes for runs in answers.runs.values() for run in runs.values())
    return {
        f"torch {attributes['version_torch']}, landscape-toolkit {attributes['version_landscape_toolkit']}"
        for attributes in last
    }

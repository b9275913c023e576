"""Verdicts err as rarely as they say, over whole studies, and are never those of the runs that survived."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analyses.studies.claim import Claim
from analyses.studies.holm import LEVEL, compare, holm
from analyses.studies.judge import Outcome, Verdict, decide
from analyses.studies.values import Number

STUDIES, CLAIMS, SEEDS = 1000, 9, 5


def words(differences: np.ndarray, directions: list[str]) -> list[str]:
    """The verdicts of one study, by what judges them all: a row of differences for each claim of one family."""
    claims = tuple(
        Claim(f"c{i}", "", "test", "x", [f"a{i}", "zero"], direction) for i, direction in enumerate(directions)
    )
    rows = {"zero": np.zeros(differences.shape[1])} | {f"a{i}": row for i, row in enumerate(differences)}
    found = {
        (arm, seed): Outcome("whole", "", {"x": Number(float(value), Path(), "x")})
        for arm, row in rows.items()
        for seed, value in enumerate(row)
    }
    return [verdict.word for verdict in decide(claims, tuple(range(differences.shape[1])), "paper", found)]


def random_study(rng: np.random.Generator, effect: np.ndarray, shared: float) -> np.ndarray:
    """Claims × seeds; claims of one study have a part of their noise in common, since they share runs."""
    noise = rng.normal(size=(CLAIMS, SEEDS))
    return effect[:, None] + np.sqrt(1 - shared) * noise + np.sqrt(shared) * rng.normal(size=SEEDS)


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_of_studies_in_which_nothing_is_true_one_in_twenty_says_anything(shared: float) -> None:
    """Seed 9. At most 5 % and three of its standard errors; judged one by one, nine claims alone err in 21 % (HOLDS)."""
    rng = np.random.default_rng(9)
    directions = ["less", "greater", *["less"] * (CLAIMS - 2)]
    false = sum(
        any(word != "NOT RESOLVED" for word in words(random_study(rng, np.zeros(CLAIMS), shared), directions))
        for _ in range(STUDIES)
    )
    assert false / STUDIES <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / STUDIES)


def test_planted_effects_are_found_and_true_nulls_beside_them_are_left_alone() -> None:
    """Three claims true by eight standard deviations, three reversed, three null; seed 9, 500 studies."""
    rng = np.random.default_rng(9)
    effect = np.repeat([-8.0, 8.0, 0.0], 3)
    found = np.array([words(random_study(rng, effect, 0.5), ["less"] * CLAIMS) for _ in range(500)])
    assert (found[:, :3] == "HOLDS").mean() > 0.95
    assert (found[:, 3:6] == "REVERSED").mean() > 0.95
    assert (found[:, :3] != "REVERSED").all()
    assert (found[:, 3:6] != "HOLDS").all()
    assert (found[:, 6:] != "NOT RESOLVED").any(axis=1).mean() <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 500)


@pytest.mark.parametrize(
    ("differences", "direction", "word"),
    [
        ([-1.0, -1.1, -0.9], "less", "HOLDS"),
        ([-1.0, -1.1, -0.9], "greater", "REVERSED"),
        ([-1.0, 1.1, -0.9], "less", "NOT RESOLVED"),
        ([1.0], "greater", "NOT RESOLVED"),
        ([0.0, 0.0, 0.0], "less", "NOT RESOLVED"),
        ([1.0, 1.0], "greater", "NOT RESOLVED"),  # no spread in two seeds is no certainty
        ([0.1 + 0.2, 0.3], "greater", "NOT RESOLVED"),  # nor is that of the arithmetic
        ([1.0] * 6, "greater", "HOLDS"),  # 2^-5
        ([1.0, 1.1, float("nan"), 0.9, 1.05], "greater", "NOT RESOLVED"),
        ([1.0, 1.1, float("inf"), 0.9, 1.05], "greater", "NOT RESOLVED"),
    ],
)
def test_verdicts(differences: list[float], direction: str, word: str) -> None:
    assert words(np.array([differences]), [direction]) == [word]


def test_the_interval_and_the_p_are_students() -> None:
    """Against the closed form for three values, t(0.975, 2) = 4.302653, and against scipy's paired test."""
    found = compare(np.array([1.0, 2.0, 4.0]))
    assert found.difference == pytest.approx(7 / 3)
    assert found.half_width == pytest.approx(4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3), rel=1e-6)
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    assert compare(a - b).p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)


def test_holms_adjustment_is_the_step_down_by_its_definition() -> None:
    """A claim is refused at level α exactly if no smaller p of the family stays above its own α / (m − rank)."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        p = rng.uniform(size=7) ** 3
        refused = np.zeros(7, dtype=bool)
        for rank, i in enumerate(np.argsort(p)):
            if p[i] >= LEVEL / (7 - rank):
                break
            refused[i] = True
        assert ((holm(p) < LEVEL) == refused).all()
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([])).size == 0


CLAIM = Claim("c", "A ends lower", "test", "x", ["a", "b"], "less")


def judge(
    values: dict[str, list[float | None]], claims: list[Claim], diverged: set = frozenset(), scale: str = "paper"
) -> list[Verdict]:
    """The verdicts on numbers that are told; None is a run that is not there."""
    found = {
        (arm, seed): Outcome("diverged", "not finite")
        if (arm, seed) in diverged
        else Outcome("missing", "it has not been trained")
        if value is None
        else Outcome("whole", "", {"x": Number(value, Path(), "x")})
        for arm, row in values.items()
        for seed, value in enumerate(row)
    }
    return decide(tuple(claims), tuple(range(len(values["a"]))), scale, found)


B = [2.0, 2.1, 1.9, 2.05, 1.95]


@pytest.mark.parametrize("gone", [1, 3])
@pytest.mark.parametrize("method", ["a", "b"])
def test_survivors_do_not_judge(gone: int, method: str) -> None:
    """What is left of the runs would say HOLDS; a missing run, a diverged one and a NaN leave the claim open, by name."""
    whole: dict[str, list[float | None]] = {"a": [0.9, 1.1, 1.0, 0.95, 1.05], "b": list(B)}
    assert judge(whole, [CLAIM])[0].word == "HOLDS"
    cut = whole | {method: [None] * gone + whole[method][gone:]}
    (missing,) = judge(cut, [CLAIM])
    assert missing.word == "NOT RESOLVED"
    assert missing.reason.count("missing") == gone
    assert missing.seeds == 5 - gone
    (diverged,) = judge(cut, [CLAIM], {(method, seed) for seed in range(gone)})
    assert diverged.word == "NOT RESOLVED"
    assert diverged.reason.count("names no value `diverged`") == gone
    (nan,) = judge(whole | {method: [float("nan")] * gone + whole[method][gone:]}, [CLAIM])
    assert nan.word == "NOT RESOLVED"
    assert nan.reason.count("no finite value") == gone


def test_a_diverged_run_counts_with_the_value_that_its_claim_registered() -> None:
    values: dict[str, list[float | None]] = {"a": [None, None, None, 0.95, 1.05], "b": list(B)}
    diverged = {("a", 0), ("a", 1), ("a", 2)}
    for registered, word in ((1.0, "HOLDS"), (2.0, "NOT RESOLVED"), (50.0, "NOT RESOLVED")):
        claim = dataclasses.replace(CLAIM, arms=["a", "b"], diverged=registered)
        (verdict,) = judge(values, [claim], diverged)
        assert (verdict.word, verdict.reason, verdict.seeds) == (word, "", 5)
    registered = dataclasses.replace(CLAIM, arms=["a", "b"], diverged=50.0)
    everything = judge({"a": [None] * 5, "b": list(B)}, [registered], {("a", s) for s in range(5)})
    assert everything[0].word == "REVERSED"


def test_families_are_corrected_each_for_itself_and_open_claims_count() -> None:
    """p = .02 alone holds; beside two more of its family, open ones too, it does not; other families do not matter."""
    a: list[float | None] = [b - d for b, d in zip(B, [1.0, 2.2, 0.5, 1.7, 0.4], strict=True)]
    p = compare(np.array(a, dtype=float) - np.array(B)).p
    assert LEVEL / 3 < p < LEVEL
    others = [dataclasses.replace(CLAIM, id=str(i), arms=["gone", "b"]) for i in range(2)]
    told = {"a": a, "b": list(B), "gone": [None] * 5}
    assert judge(told, [CLAIM])[0].word == "HOLDS"
    assert judge(told, [CLAIM, *others])[0].word == "NOT RESOLVED"
    apart = [dataclasses.replace(claim, arms=["gone", "b"], family="other") for claim in others]
    assert judge(told, [CLAIM, *apart])[0].word == "HOLDS"


def test_an_effect_below_the_smallest_of_interest_is_not_resolved_and_says_so() -> None:
    a: list[float | None] = [b - 1.0 - 0.01 * i for i, b in enumerate(B)]
    told = {"a": a, "b": list(B)}
    for smallest, word in ((0.0, "HOLDS"), (0.9, "HOLDS"), (1.1, "NOT RESOLVED")):
        (verdict,) = judge(told, [dataclasses.replace(CLAIM, arms=["a", "b"], min_effect=smallest)])
        assert verdict.word == word
        assert ("1.1" in verdict.reason) == (word != "HOLDS")


def test_a_claim_that_cannot_be_seen_at_a_scale_says_why_and_burdens_no_family() -> None:
    """Beside two of them p = .02 of the third still holds."""
    a: list[float | None] = [b - d for b, d in zip(B, [1.0, 2.2, 0.5, 1.7, 0.4], strict=True)]
    unseen = [
        dataclasses.replace(CLAIM, id=str(i), arms=["a", "b"], not_testable={"tiny": "64 features"}) for i in range(2)
    ]
    told = {"a": a, "b": list(B)}
    verdicts = judge(told, [CLAIM, *unseen], scale="tiny")
    assert [v.word for v in verdicts] == ["HOLDS", "NOT TESTABLE HERE", "NOT TESTABLE HERE"]
    assert verdicts[1].reason == "64 features"
    assert judge(told, [CLAIM, *unseen], scale="small")[0].word == "NOT RESOLVED"

"""Each statistic against SciPy or by hand, and how often it errs where nothing is true."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from analyses.studies.holm import LEVEL
from analyses.studies.statistics import Finding, Table, by_name
from analyses.studies.statistics.rank_correlation import kendall

SEEDS, STUDIES = 5, 600
LEVELS = np.array([0.0, 0.1, 0.3, 1.0])
# arms, options, what the arms' means are where nothing is true, and where the claim is
CASES: dict[str, tuple[int, dict, list[float], list[float]]] = {
    "difference": (2, {}, [0, 0], [9, 0]),
    "sign": (1, {}, [0], [9]),
    "slope": (4, {"levels": LEVELS}, [0] * 4, [0, 9, 18, 27]),
    "order": (3, {}, [0] * 3, [0, 9, 18]),
    "interior_maximum": (4, {}, [0] * 4, [0, 9, 18, 0]),
    "rank_correlation": (4, {"levels": LEVELS}, [0] * 4, [0, 9, 18, 27]),
    "equivalence": (2, {"margin": 8.0, "direction": "equal"}, [8, 0], [0, 0]),  # at the margin neither is true
}


def find(name: str, values: np.ndarray, **options) -> Finding:
    return by_name(name).find(Table(values, **({"direction": "greater"} | options)))


@pytest.mark.parametrize("name", CASES)
def test_where_nothing_is_true_one_in_twenty_says_anything(name: str) -> None:
    """Seed 9. At most 5 % and three of its standard errors, with noise that the arms share and noise of their own."""
    arms, options, null, _ = CASES[name]
    rng = np.random.default_rng(9)
    noise = rng.normal(size=(STUDIES, arms, SEEDS)) + (rng.normal(size=(STUDIES, 1, SEEDS)) if arms > 1 else 0)
    false = sum(find(name, np.array(null)[:, None] + each, **options).p < LEVEL for each in noise)
    assert false / STUDIES <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / STUDIES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_true_is_found_on_its_side_and_the_reverse_on_the_other(name: str) -> None:
    """Six seeds: five in which every rank agrees say 2^-4, which is no less than one in twenty."""
    arms, options, _, true = CASES[name]
    rng = np.random.default_rng(9)
    values = [np.array(true)[:, None] + rng.normal(size=(arms, 6)) for _ in range(50)]
    found = [find(name, each, **options) for each in values]
    assert np.mean([f.p < LEVEL and f.supports for f in found]) > 0.95
    other = [each + np.array([[20], [0]]) for each in values] if name == "equivalence" else [-each for each in values]
    found = [find(name, each, **options) for each in other]
    assert np.mean([f.p < LEVEL and not f.supports for f in found]) > 0.95


def test_one_number_a_seed_is_students_test_of_it() -> None:
    values = np.random.default_rng(1).normal(size=(4, 7))
    slopes = [np.polyfit(LEVELS, column, 1)[0] for column in values.T]
    taus = [stats.kendalltau(LEVELS, column).statistic for column in values.T]
    for name, table, options, numbers in (
        ("difference", values[:2], {}, values[0] - values[1]),
        ("sign", values[:1], {}, values[0]),
        ("slope", values, {"levels": LEVELS}, slopes),
        ("rank_correlation", values, {"levels": LEVELS}, taus),
        ("rank_correlation", values, {"against": np.tile(LEVELS, (7, 1)).T}, taus),
    ):
        found, test = find(name, table, **options), stats.ttest_1samp(numbers, 0)
        assert found.effect == pytest.approx(np.mean(numbers), abs=1e-12)
        assert found.p == pytest.approx(test.pvalue, rel=1e-9)
        interval = test.confidence_interval(0.95)
        assert found.half_width == pytest.approx((interval.high - interval.low) / 2, rel=1e-9)


def test_kendalls_tau_is_scipys_with_ties() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        x, y = rng.integers(0, 4, size=(2, 8))
        if np.ptp(x) and np.ptp(y):
            assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert kendall(np.ones(3), np.arange(3)) == 0.0


def test_order_is_its_weakest_step_and_of_two_arms_the_difference() -> None:
    values = np.random.default_rng(3).normal(size=(3, 6)) + np.array([[0.0], [2.0], [3.0]])
    each = [stats.ttest_rel(b, a, alternative="greater").pvalue for a, b in pairwise(values)]
    found = find("order", values)
    assert found.p == pytest.approx(2 * max(each))
    assert found.effect == pytest.approx(np.diff(values, axis=0).mean(1).min())
    two, difference = find("order", values[:2]), find("difference", values[1::-1])
    assert (two.p, two.effect) == (pytest.approx(difference.p), pytest.approx(difference.effect))


def test_an_interior_maximum_lies_above_both_ends() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(4, 6)) + np.array([[0.0], [1.0], [4.0], [1.5]])
    ends = [stats.ttest_rel(values[2], end, alternative="greater").pvalue for end in (values[0], values[3])]
    assert find("interior_maximum", values).p == pytest.approx(min(1, 2 * 2 * max(ends)))
    rising = rng.normal(size=(4, 6)) + np.array([[0.0], [5.0], [10.0], [15.0]])
    assert find("interior_maximum", rising).p > LEVEL  # the largest is at an end


def test_equivalence_is_two_one_sided_tests() -> None:
    a, b = np.random.default_rng(5).normal(size=(2, 9))
    above = stats.ttest_1samp(a - b, -3, alternative="greater").pvalue
    below = stats.ttest_1samp(a - b, 3, alternative="less").pvalue
    found = find("equivalence", np.stack([a, b]), margin=3.0, direction="equal")
    assert found.p == pytest.approx(2 * max(above, below))
    assert found.supports

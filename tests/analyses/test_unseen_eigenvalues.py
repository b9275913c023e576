"""What a random start may overlook: the bound on its share, the probability, and the search that goes on until it is small."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.lanczos import lanczos
from analyses.unseen_eigenvalues import gaps, probability_unseen


def decomposition(spectrum: np.ndarray, share: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """B and c after `size` steps of Lanczos, in float64 with full orthogonalisation, on diag(spectrum) from `share`."""
    basis = [share / np.linalg.norm(share)]
    matrix, tail = np.zeros((size, size)), np.zeros(size)
    for j in range(size):
        w = spectrum * basis[j]
        for _ in range(2):
            for i, v in enumerate(basis):
                step = v @ w
                matrix[i, j] += step
                w = w - step * v
        length = np.linalg.norm(w)
        if j + 1 < size:
            basis.append(w / length)
            matrix[j + 1, j] = length
        else:
            tail[j] = length
    return (matrix + matrix.T) / 2, tail


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_no_eigenvalue_had_a_larger_share_than_its_invisibility_allows(seed: int, size: int) -> None:
    """Parseval's bound, for every eigenvalue of the matrix that is no Ritz value."""
    rng = np.random.default_rng(seed)
    spectrum = np.sort(rng.standard_normal(30))
    share = rng.standard_normal(30) * 10.0 ** rng.uniform(-6, 0, 30)
    matrix, tail = decomposition(spectrum, share, size)
    shown = np.linalg.eigvalsh(matrix)
    for value, component in zip(spectrum, np.abs(share) / np.linalg.norm(share), strict=True):
        if np.abs(shown - value).min() < 1e-8:
            continue  # a Ritz value: seen
        z = np.linalg.solve(value * np.eye(size) - matrix, tail)
        assert component <= abs(z[0]) / math.sqrt(1 + z @ z) * (1 + 1e-6) + 1e-12
        probability = probability_unseen(matrix, tail, 30, np.array([[value]]))
        assert probability == pytest.approx(math.erf(abs(z[0]) / math.sqrt(1 + z @ z) * math.sqrt(15)), rel=1e-6)


def test_gaps_leave_out_what_no_single_vector_can_tell_apart() -> None:
    points = gaps(np.array([3.0, 2.999, 2.0]), np.array([2.0, 3.0, 0.5, 2.999, -1.0]))
    np.testing.assert_allclose(points[:, 1], [-0.25, 1.25, 2.4995, -1.4, 3.4])
    np.testing.assert_allclose(points[:, 0], [-0.625, 0.875, 2.24975, -1.4, 3.4])


SPECTRUM = np.concatenate([np.linspace(-0.2, 0.4, 1500), [0.9, 1.0, 1.2, 1.5, 1.9, 2.4]])
TOP = SPECTRUM[::-1][:5]


def overlooked(unseen_distinct: float, runs: int) -> tuple[int, list[float], list[int]]:
    matrix = torch.diag(torch.from_numpy(SPECTRUM))
    missed, probabilities, products = 0, [], []
    for seed in range(runs):
        found = lanczos(
            matrix, 5, tol=3e-2, unseen_distinct=unseen_distinct, generator=torch.Generator().manual_seed(seed)
        )
        missed += bool(np.abs(found.values.numpy() / TOP - 1).max() > 1e-2)
        probabilities.append(found.unseen_distinct)
        products.append(found.matvecs)
    return missed, probabilities, products


def test_the_probability_is_that_of_an_oversight() -> None:
    """500 searches to a loose tolerance: as many overlook an eigenvalue as their probabilities let expect."""
    missed, probabilities, products = overlooked(1.0, 500)
    assert missed >= 5
    assert 0.2 * sum(probabilities) <= missed <= sum(probabilities)  # an upper estimate: the worst place of each gap
    careful, asked, more = overlooked(1e-3, 500)
    assert careful <= 2
    assert max(asked) <= 1e-3
    assert np.mean(more) <= np.mean(products) + 4


def test_it_is_not_known_for_a_start_of_ones_own_or_after_a_restart() -> None:
    matrix = torch.diag(torch.from_numpy(SPECTRUM))
    assert math.isnan(lanczos(matrix, 2, start=torch.ones(len(SPECTRUM))).unseen_distinct)
    assert math.isnan(lanczos(matrix, 2, tol=1e-8, max_basis=8).unseen_distinct)
    assert math.isnan(lanczos(matrix, 2, multiplicity=True).unseen_distinct)
    assert lanczos(torch.eye(4), 4).unseen_distinct == 0  # nothing is left where it could hide


@pytest.mark.parametrize(("dtype", "least"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_the_search_does_not_ask_for_more_than_the_arithmetic_can_say(dtype: torch.dtype, least: float) -> None:
    found = lanczos(torch.diag(torch.from_numpy(SPECTRUM).to(dtype)), 5, unseen_distinct=1e-30)
    assert found.converged
    assert found.unseen_distinct <= least
    assert found.matvecs <= 40


def test_errors_of_the_products_do_not_keep_the_search_going() -> None:
    """Products rounded to bfloat16, as under autocast: the shares they feign are never smaller than the rounding."""

    class Rounded:
        shape, dtype = (len(SPECTRUM),) * 2, torch.float32

        def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
            return (torch.from_numpy(SPECTRUM).float() * vector).bfloat16().float()

    found = lanczos(Rounded(), 5, tol=1e-1, unseen_distinct=1e-3)
    assert found.converged
    assert found.matvecs <= 25

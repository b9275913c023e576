"""The algebra of operators against the algebra of matrices."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from landscape.objective.operators import MatrixOperator


def matrix(n: int = 7, seed: int = 0) -> torch.Tensor:
    a = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return a + a.T


def test_sums_multiples_shifts_and_differences() -> None:
    a, b = matrix(seed=1), matrix(seed=2)
    A, B = MatrixOperator(a), MatrixOperator(b)
    identity = torch.eye(7, dtype=torch.float64)
    for operator, dense in [
        (A + B, a + b),
        (A - B, a - b),
        (2.5 * A, 2.5 * a),
        (A * 2.5, 2.5 * a),
        (-A, -a),
        (A.shifted(3.0), a + 3 * identity),
        ((2 * A - B).shifted(-1), 2 * a - b - identity),
    ]:
        torch.testing.assert_close(operator.dense(), dense)
        v = torch.randn(7, dtype=torch.float64)
        torch.testing.assert_close(operator @ v, dense @ v)


def test_deflation_sets_known_eigenvalues_to_zero() -> None:
    values, vectors = torch.linalg.eigh(matrix())
    deflated = MatrixOperator(matrix()).deflated(vectors[:, -2:])
    expected = torch.cat([values[:-2], torch.zeros(2, dtype=torch.float64)]).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(deflated.dense()), expected)


def test_scipy_takes_the_operator() -> None:
    operator = MatrixOperator(matrix(40)).to_scipy()
    found = scipy.sparse.linalg.eigsh(operator, 3, return_eigenvectors=False)
    exact = np.linalg.eigvalsh(matrix(40).numpy())
    np.testing.assert_allclose(np.sort(np.abs(found)), np.sort(np.abs(exact))[-3:], rtol=1e-10)
    block = np.random.default_rng(0).standard_normal((40, 3))
    np.testing.assert_allclose(operator @ block, matrix(40).numpy() @ block)
    np.testing.assert_allclose(operator @ block[:, :1], matrix(40).numpy() @ block[:, :1])


def test_wrong_shapes_are_refused() -> None:
    operator = MatrixOperator(matrix())
    with pytest.raises(ValueError, match=r"\(7,\) or a block \(7, k\), got \(6,\)"):
        operator @ torch.zeros(6)
    with pytest.raises(ValueError, match=r"shape \(7, 7\), got \(5, 5\)"):
        operator + MatrixOperator(matrix(5))

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sharpness_problems import classifier
from spectra import Counted, decaying, flat, outliers, with_eigenvalues

from analyses import compare_trace, estimate_trace, plot_trace, trace
from analyses.estimators.xtrace import leave_out

METHODS = ("hutchinson", "hutch++", "xtrace")
SPECTRA = {"flat": flat(), "outliers": outliers(), "decaying": decaying()}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{"rtol": 0.0, "max_products": 80}, {"rtol": 0.05}], ids=["budget", "stopped"])
def test_error_bars_are_honest(method: str, spectrum: str, options: dict) -> None:
    """z = error / standard error over 400 repetitions has mean 0 and standard deviation 1, which they know to 0.035."""
    eigenvalues = SPECTRA[spectrum]
    matrix = with_eigenvalues(eigenvalues)
    found = [estimate_trace(matrix, method, generator=seeded(s), **options) for s in range(400)]
    z = np.array([(f.trace - float(eigenvalues.sum())) / f.stderr for f in found])
    assert 0.9 < z.std(ddof=1) < 1.1
    assert abs(z.mean()) < 4 / np.sqrt(400)
    norm = float(eigenvalues.square().sum().sqrt())
    z = np.array([(f.frobenius - norm) / f.frobenius_stderr for f in found])
    assert 0.85 < z.std(ddof=1) < 1.2  # the samples ‖Az‖² are skewed and the root is taken to first order


@pytest.mark.parametrize("method", METHODS)
def test_it_stops_on_the_standard_error_and_not_before(method: str) -> None:
    matrix = Counted(with_eigenvalues(flat(500) - 0.8))
    loose, tight = (estimate_trace(matrix, method, rtol=r, max_products=5000) for r in (0.1, 0.02))
    assert loose.products + tight.products == matrix.products
    for found, tolerance in ((loose, 0.1), (tight, 0.02)):
        assert found.converged
        assert found.stderr <= tolerance * abs(found.trace)
    undecided = tight.history[4:-1]  # after the least number of samples, before the last
    assert len(undecided) > 4
    assert all(error > 0.02 * abs(value) for _, value, error in undecided)
    assert loose.products < tight.products


@pytest.mark.parametrize("method", METHODS)
def test_a_spent_budget_is_no_convergence(method: str) -> None:
    matrix = Counted(with_eigenvalues(flat()))
    found = estimate_trace(matrix, method, rtol=1e-6, max_products=50)
    assert not found.converged
    assert matrix.products == found.products == 50
    assert found.history[-1] == (50, found.trace, found.stderr)


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_low_rank_is_exact(method: str, dtype: torch.dtype) -> None:
    eigenvalues = torch.zeros(300, dtype=torch.float64)
    eigenvalues[:5] = torch.tensor([5.0, 4, 3, -2, 1])
    found = estimate_trace(with_eigenvalues(eigenvalues).to(dtype), method)
    rounding = 100 * torch.finfo(dtype).eps
    assert found.trace == pytest.approx(11, abs=11 * rounding)
    assert found.frobenius == pytest.approx(55**0.5, abs=8 * rounding)
    assert found.stderr < 11 * rounding
    assert found.converged


@pytest.mark.parametrize("method", METHODS)
def test_zero_and_one_by_one(method: str) -> None:
    zero = estimate_trace(torch.zeros(40, 40, dtype=torch.float64), method)
    assert (zero.trace, zero.stderr, zero.frobenius) == (0, 0, 0)
    one = estimate_trace(torch.full((1, 1), -3.0, dtype=torch.float64), method)
    assert one.trace == pytest.approx(-3)
    assert one.frobenius == pytest.approx(3)


@pytest.mark.parametrize("k", [3, 12])
def test_xtrace_is_its_definition(k: int) -> None:
    """Every t_i and t_i∖j against bases that are factorised anew without the columns left out."""
    n = 40
    A = with_eigenvalues(outliers(n))
    tests = torch.randn(n, k, generator=seeded(1), dtype=torch.float64)
    Q, R = torch.linalg.qr(A @ tests)
    S = torch.linalg.inv(R).T
    S = S / S.norm(dim=0)
    one, two = leave_out(R, Q.T @ A @ Q, Q.T @ tests, S, tests.square().sum(0), n)

    def without(*columns: int) -> torch.Tensor:
        kept = [c for c in range(k) if c not in columns]
        basis = torch.linalg.qr(A @ tests[:, kept]).Q
        probe = tests[:, columns[0]] - basis @ (basis.T @ tests[:, columns[0]])
        return (basis.T @ A @ basis).trace() + (n - len(kept)) * (probe @ A @ probe) / probe.square().sum()

    for i in range(k):
        torch.testing.assert_close(one[i], without(i), rtol=1e-9, atol=1e-9)
        for j in range(k):
            if i != j:
                torch.testing.assert_close(two[i, j], without(i, j), rtol=1e-9, atol=1e-9)


def test_a_sketch_pays_where_few_eigenvalues_carry_the_trace() -> None:
    matrix = with_eigenvalues(outliers(400))
    errors = {m: estimate_trace(matrix, m, rtol=0.0, max_products=96).stderr for m in METHODS}
    assert errors["hutch++"] < 0.7 * errors["hutchinson"]
    assert errors["xtrace"] < 0.7 * errors["hutchinson"]


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_gives_the_same_numbers(method: str) -> None:
    matrix = with_eigenvalues(flat())
    first, again, other = (estimate_trace(matrix, method, generator=seeded(s)) for s in (4, 4, 5))
    assert first == again
    assert first.trace != other.trace


@pytest.mark.parametrize(
    ("matrix", "method", "options", "error", "message"),
    [
        (torch.eye(3), "hutch", {}, ValueError, "expected one of hutchinson, hutch"),
        (torch.ones(3, 2), "hutchinson", {}, ValueError, "expected a square operator"),
        (torch.eye(3), "xtrace", {"rtol": -1.0}, ValueError, "rtol ≥ 0"),
        (torch.eye(3), "xtrace", {"max_products": 3}, ValueError, "max_products: expected at least 4"),
        (torch.eye(30), "hutch++", {"max_products": 33}, ValueError, "lower sketch or raise max_products"),
        (torch.full((3, 3), float("nan")), "hutchinson", {}, FloatingPointError, "NaN or Inf"),
        (torch.full((3, 3), float("nan")), "hutch++", {}, FloatingPointError, "NaN or Inf"),
        (torch.full((3, 3), float("inf")), "xtrace", {}, FloatingPointError, "NaN or Inf"),
    ],
)
def test_bad_input_is_named(matrix, method, options, error, message) -> None:
    with pytest.raises(error, match=message):
        estimate_trace(matrix, method, **options)


@pytest.mark.parametrize("method", METHODS)
def test_of_an_objective_against_its_dense_hessian(method: str, tmp_path: Path) -> None:
    objective = classifier()
    dense = objective.hessian().dense()
    found = trace(objective, method=method, rtol=0.0, max_products=120)
    assert abs(float(found.trace) - float(dense.trace())) < 4 * float(found.trace_stderr)
    assert abs(float(found.frobenius) - float(dense.norm())) < 4 * float(found.frobenius_stderr)
    assert float(found.mean_eigenvalue) == pytest.approx(float(found.trace) / objective.size)
    assert found.attrs["hessian_products"] == int(found.products[-1]) == 120
    found.to_netcdf(tmp_path / "t.h5", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "t.h5", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), found)
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in found.data_vars.values())


def test_the_pictures_show_the_dataset() -> None:
    found = trace(classifier(), max_products=40)
    ax = plot_trace(found)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), found.running)
    plt.close(ax.figure)
    ax = compare_trace({"SGD": found, "SAM": found})
    assert [text.get_text() for text in ax.get_xticklabels()] == ["SGD", "SAM"]
    plt.close(ax.figure)


@pytest.mark.parametrize("matrix", ["ggn", "fisher"])
def test_of_the_other_curvature_matrices(matrix: str) -> None:
    """Cross-entropy of a softmax: Gauss–Newton and Fisher are one matrix, positive semi-definite."""
    objective = classifier()
    dense = objective.ggn().dense()
    found = trace(objective, matrix=matrix, method="hutch++", rtol=0.0, max_products=120)
    assert abs(float(found.trace) - float(dense.trace())) < 4 * float(found.trace_stderr)
    assert found.attrs["matrix"] == matrix
    with pytest.raises(ValueError, match="matrix: expected one of hessian, ggn, fisher, got 'kfac'"):
        trace(objective, matrix="kfac")

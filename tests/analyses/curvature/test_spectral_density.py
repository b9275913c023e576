from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sharpness_problems import classifier
from spectra import Counted, flat, outliers, with_eigenvalues

from analyses import compare_spectral_density, plot_spectral_density, spectral_density
from analyses.estimators.probe_vectors import gaussian
from analyses.estimators.quadrature import lanczos_quadrature, mean_and_stderr


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def broadened(eigenvalues: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """Σ_i N(t; λ_i, width²) on the grid."""
    distance = (grid - np.asarray(eigenvalues)[..., None]) / width
    return np.exp(-(distance**2) / 2) / np.sqrt(2 * np.pi) / width


@given(seed=st.integers(0, 10_000), steps=st.integers(1, 8))
@settings(deadline=None, max_examples=25)
def test_m_nodes_are_exact_for_polynomials_of_degree_2m_minus_1(seed: int, steps: int) -> None:
    matrix = with_eigenvalues(flat(20), seed)
    found = lanczos_quadrature(matrix, probes=1, steps=steps, generator=seeded(seed))
    z = gaussian(matrix, 1, seeded(seed))[:, 0]
    power = z / z.norm()
    start = power
    for degree in range(2 * steps):
        expected = 20 * float(start @ power)
        assert found.samples(lambda x, d=degree: x**d)[0] == pytest.approx(expected, rel=1e-8, abs=1e-8)
        power = matrix @ power


def test_all_nodes_give_the_dense_quadratic_form() -> None:
    matrix = with_eigenvalues(outliers(30))
    values, vectors = torch.linalg.eigh(matrix)
    found = lanczos_quadrature(matrix, probes=3, steps=99, generator=seeded(2))
    generator = seeded(2)
    z = torch.cat([gaussian(matrix, 1, generator) for _ in range(3)], 1)
    weights = ((vectors.T @ z) / z.norm(dim=0)).square().T.numpy()
    np.testing.assert_allclose(found.nodes, np.tile(values, (3, 1)), atol=1e-10)
    np.testing.assert_allclose(found.weights, weights, atol=1e-10)
    assert found.products == 90


def test_known_vectors_are_left_out_of_the_sum() -> None:
    eigenvalues = outliers(60)
    matrix = with_eigenvalues(eigenvalues)
    known = torch.linalg.eigh(matrix).eigenvectors[:, -4:]
    found = lanczos_quadrature(matrix, probes=50, steps=12, known=known)
    assert found.dimension == 56
    assert found.nodes.max() < 2
    mean, stderr = mean_and_stderr(found.samples(lambda x: x))
    assert abs(mean - float(eigenvalues[4:].sum())) < 4 * stderr
    whole = lanczos_quadrature(matrix, probes=50, steps=12)
    assert stderr < 0.1 * mean_and_stderr(whole.samples(lambda x: x))[1]


def test_an_invariant_subspace_ends_no_quadrature() -> None:
    found = lanczos_quadrature(2 * torch.eye(10, dtype=torch.float64), probes=2, steps=4)
    np.testing.assert_allclose(found.samples(np.exp), 10 * np.exp(2))
    zero = lanczos_quadrature(torch.zeros(10, 10), probes=2, steps=4)
    np.testing.assert_allclose(zero.samples(np.cos), 10, rtol=1e-6)


def test_a_gaussian_of_the_stated_resolution_is_integrated() -> None:
    matrix = with_eigenvalues(flat(300))
    values, vectors = torch.linalg.eigh(matrix)
    found = lanczos_quadrature(matrix, probes=1, steps=24, generator=seeded(3))
    z = gaussian(matrix, 1, seeded(3))[:, 0]
    weights = 300 * (vectors.T @ (z / z.norm())).square().numpy()
    grid = np.linspace(-1.2, 3.2, 101)
    exact = weights @ broadened(values.numpy(), grid, found.resolution)
    error = np.abs(found.samples(lambda x: broadened(x, grid, found.resolution))[0] - exact)
    assert error.max() < 1e-4 * exact.max()
    coarse = np.abs(found.samples(lambda x: broadened(x, grid, found.resolution / 3))[0])
    exact = weights @ broadened(values.numpy(), grid, found.resolution / 3)
    assert np.abs(coarse - exact).max() > 1e-2 * exact.max()  # narrower, it is not


@pytest.mark.slow
def test_error_bars_of_density_and_sums_are_honest() -> None:
    """z over 200 repetitions at points of the bulk, and for the sums: standard deviation 1, mean 0."""
    eigenvalues = outliers(80)
    matrix = with_eigenvalues(eigenvalues)
    known = torch.linalg.eigh(matrix).eigenvectors[:, -4:]
    bulk = eigenvalues[4:].numpy()
    width, grid = 0.25, np.linspace(-0.4, 0.8, 7)

    def functions(x: np.ndarray) -> np.ndarray:
        sums = [x, np.abs(x), x.clip(0) / (x.clip(0) + 1.0)]
        return np.concatenate([broadened(x, grid, width), np.stack(sums, -1)], -1)

    exact = functions(bulk).sum(0)
    scores = []
    for seed in range(200):
        found = lanczos_quadrature(matrix, probes=30, steps=12, known=known, generator=seeded(seed))
        mean, stderr = mean_and_stderr(found.samples(functions))
        scores.append((mean - exact) / stderr)
    z = np.array(scores)
    assert 0.9 < z[:, :7].std(ddof=1) < 1.1
    assert (np.abs(z.std(0, ddof=1) - 1) < 0.2).all()  # each alone: 200 repetitions know it to 0.05
    assert (np.abs(z.mean(0)) < 4 / np.sqrt(200)).all()


def test_of_an_objective_against_its_dense_hessian() -> None:
    objective = classifier()
    values = np.linalg.eigvalsh(objective.hessian().dense().numpy())
    largest = values[np.argsort(-np.abs(values))][:6]
    rest = values[np.argsort(-np.abs(values))][6:]
    found = spectral_density(objective, probes=12, nodes=32, outliers=6, points=201)
    np.testing.assert_allclose(np.sort(found.outlier), np.sort(largest), rtol=1e-4)
    assert (np.abs(np.sort(found.outlier) - np.sort(largest)) <= found.outlier_bound.max().item()).all()

    exact = broadened(rest, found.eigenvalue.values, found.attrs["width"]).sum(0) / objective.size
    inside = exact > 1e-3 * exact.max()
    z = ((found.density - exact) / found.density_stderr).values[inside]
    assert np.abs(z).max() < 5
    assert float(found.density.integrate("eigenvalue")) == pytest.approx(len(rest) / len(values), rel=1e-3)

    positive = values.clip(0)
    for alpha in found.alpha.values:
        expected = (positive / (positive + alpha)).sum()
        row = found.sel(alpha=alpha)
        assert (
            abs(float(row.effective_dimension) - expected) < 4 * float(row.effective_dimension_stderr) + 0.01 * expected
        )
    share = -values[values < 0].sum() / np.abs(values).sum()
    assert abs(float(found.negative_share) - share) < 4 * float(found.negative_share_stderr)
    assert abs(float(found.trace) - values.sum()) < 4 * float(found.trace_stderr)
    assert found.attrs["products"] == found.attrs["hessian_products"]


def test_without_outliers_and_with_a_single_probe() -> None:
    found = spectral_density(classifier(), probes=1, nodes=10, outliers=0, interval=(-2, 2), width=0.1, points=11)
    assert found.sizes["index"] == 0
    assert np.isnan(found.density_stderr).all()
    assert np.isfinite(found.density).all()
    np.testing.assert_array_equal(found.eigenvalue, np.linspace(-2, 2, 11))


def test_the_gauss_newton_matrix_has_no_negative_share_and_float32_will_do() -> None:
    objective = classifier(torch.float32)
    values = np.linalg.eigvalsh(objective.ggn().dense().double().numpy()).clip(0)
    found = spectral_density(objective, matrix="ggn", probes=12, nodes=24, outliers=5)
    assert float(found.negative_share) < 1e-3
    assert float(found.outlier.max()) == pytest.approx(values.max(), rel=1e-4)
    assert abs(float(found.trace) - values.sum()) < 4 * float(found.trace_stderr)
    row = found.sel(alpha=0.01)
    dimension = (values / (values + 0.01)).sum()
    assert (
        abs(float(row.effective_dimension) - dimension) < 4 * float(row.effective_dimension_stderr) + 0.01 * dimension
    )


def test_products_are_counted() -> None:
    matrix = Counted(with_eigenvalues(flat(50)))
    found = lanczos_quadrature(matrix, probes=3, steps=7)
    assert found.products == matrix.products == 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 0}, "probes: expected a whole number at least 1, got 0"),
        ({"nodes": 0}, "nodes: expected a whole number at least 1, got 0"),
        ({"outliers": 10_000}, "outliers: expected 0 to"),
        ({"width": 0.0}, "width: expected a positive"),
    ],
)
def test_bad_input_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_density(classifier(), **{"probes": 2, "nodes": 3, "outliers": 1, **options})


def test_a_nan_in_the_products_is_an_error() -> None:
    with pytest.raises(FloatingPointError):
        lanczos_quadrature(torch.full((5, 5), float("nan")), probes=1, steps=3)


def test_the_file_holds_the_dataset_and_the_picture_shows_it(tmp_path: Path) -> None:
    found = spectral_density(classifier(), probes=3, nodes=12, outliers=4)
    found.to_netcdf(tmp_path / "d.h5", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "d.h5", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), found)
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in found.data_vars.values())
    ax = plot_spectral_density(found)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), found.density)
    np.testing.assert_array_equal(ax.get_lines()[1].get_xdata(), found.outlier)
    plt.close(ax.figure)
    ax = compare_spectral_density({"SGD": found, "SAM": found})
    assert len(ax.get_lines()) == 4
    plt.close(ax.figure)

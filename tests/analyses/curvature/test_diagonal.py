from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sharpness_problems import classifier
from spectra import Counted, flat, with_eigenvalues

from analyses import diagonal, plot_diagonal
from analyses.curvature.diagonal import estimate_diagonal


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_error_bars_are_honest() -> None:
    """z of every entry and of the block sums over 200 repetitions: mean 0, standard deviation 1."""
    matrix = with_eigenvalues(flat(30))
    sizes = (10, 1, 19)
    found = [estimate_diagonal(matrix, sizes=sizes, rtol=0.0, max_products=60, generator=seeded(s)) for s in range(200)]
    z = torch.stack([(f.diagonal - matrix.diagonal()) / f.stderr for f in found])
    assert 0.9 < float(z.std()) < 1.1
    assert float(z.mean(0).abs().max()) < 4.5 / np.sqrt(200)
    exact = torch.stack([block.sum() for block in matrix.diagonal().split(sizes)])
    z = torch.stack([(f.blocks - exact) / f.block_stderr for f in found])
    assert 0.9 < float(z.std()) < 1.1


def test_a_diagonal_matrix_is_exact_at_once_and_stops_at_the_least() -> None:
    matrix = Counted(torch.diag(torch.arange(5.0)))
    found = estimate_diagonal(matrix)
    assert torch.equal(found.diagonal, torch.arange(5.0))
    assert not found.stderr.any()
    assert found.converged
    assert found.products == matrix.products == 32


def test_it_stops_on_the_standard_errors() -> None:
    matrix = with_eigenvalues(flat(200) + 2)
    found = estimate_diagonal(matrix, rtol=0.05, max_products=2000)
    assert found.converged
    assert float(found.stderr.norm()) <= 0.05 * float(found.diagonal.norm())
    assert 32 < found.products < 2000
    short = estimate_diagonal(matrix, rtol=0.05, max_products=20)
    assert not short.converged
    assert short.products == 20


def test_of_an_objective_against_its_dense_hessian(tmp_path: Path) -> None:
    objective = classifier()
    exact = objective.hessian().dense().diagonal()
    found = diagonal(objective, rtol=0.0, max_products=100)
    z = (found["diagonal"].values - exact.numpy()) / found.diagonal_stderr.values
    assert np.abs(z).max() < 5
    assert 0.85 < z.std() < 1.15  # of as many entries as the model has parameters, once
    blocks = objective.space.unflatten(exact)
    for name, part in blocks.items():
        row = found.sel(block=name)
        assert abs(float(row.block_trace) - float(part.sum())) < 4.5 * float(row.block_trace_stderr)
        assert float(row.block_mean) == pytest.approx(float(row.block_trace) / part.numel())
    assert found.attrs["hessian_products"] == found.attrs["products"] == 100
    found.to_netcdf(tmp_path / "d.h5", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "d.h5", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), found)
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in found.data_vars.values())
    ax = plot_diagonal(found)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(blocks)
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sizes": (1, 1)}, "add up to n = 3"), ({"rtol": -1.0}, "rtol ≥ 0"), ({"max_products": 0}, "1")],
)
def test_bad_input_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_diagonal(torch.eye(3), **options)


def test_a_nan_is_an_error() -> None:
    with pytest.raises(FloatingPointError):
        estimate_diagonal(torch.full((3, 3), float("nan")))

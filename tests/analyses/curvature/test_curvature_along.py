from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sharpness_problems import classifier, regression

from analyses import compare_curvature_along, curvature_along, plot_curvature_along
from analyses.curvature.along import curvature
from landscape.objective.directions import random_unit


def test_a_quadratic_in_closed_form() -> None:
    objective, g, h, theta = regression()
    v = torch.randn(4, dtype=torch.float64)
    found = curvature_along(objective, momentum=v, samples=3, seed=8)
    generator = torch.Generator().manual_seed(8)
    drawn = [random_unit(generator, theta) for _ in range(3)]
    random = [float(d @ h @ d) for d in drawn]
    np.testing.assert_allclose(
        found.curvature, [float(g @ h @ g / (g @ g)), float(v @ h @ v / (v @ v)), np.mean(random)], rtol=1e-12
    )
    np.testing.assert_allclose(found.curvature_stderr, [0, 0, np.std(random, ddof=1) / np.sqrt(3)], atol=1e-15)
    np.testing.assert_allclose(found.sample_curvature, random, rtol=1e-12)


def test_it_is_the_second_derivative_of_the_loss_along_the_direction() -> None:
    objective = classifier()
    v = torch.randn(objective.size, dtype=torch.float64)
    d, step = v / v.norm(), 1e-3
    around = objective(objective.theta + step * torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64) * d)
    second = float(around[0] - 2 * around[1] + around[2]) / step**2
    found = curvature_along(objective, directions=["momentum"], momentum=v)
    assert float(found.curvature[0]) == pytest.approx(second, rel=1e-5, abs=1e-8)


def test_the_top_eigenvector_has_the_top_eigenvalue_for_its_curvature() -> None:
    objective, _, h, _ = regression()
    found = curvature_along(objective, directions=["eigenvector"])
    assert float(found.curvature[0]) == pytest.approx(float(torch.linalg.eigvalsh(h)[-1]), rel=1e-5)


def test_random_directions_estimate_the_mean_eigenvalue() -> None:
    objective, _, h, _ = regression()
    found = curvature_along(objective, directions=["random"], samples=1000).squeeze()
    assert abs(float(found.curvature) - float(h.trace()) / 4) < 4 * float(found.curvature_stderr)


def test_a_block_of_directions_at_once() -> None:
    _, _, h, _ = regression()
    directions = torch.randn(4, 3, dtype=torch.float64)
    expected = [float(d @ h @ d / (d @ d)) for d in directions.T]
    np.testing.assert_allclose(curvature(h, directions), expected, rtol=1e-12)


def test_momentum_is_left_out_by_default_and_refused_when_asked_for() -> None:
    objective, *_ = regression()
    found = curvature_along(objective)
    assert list(found.direction.values) == ["gradient", "random"]
    assert found.attrs["left_out"] == "momentum: there is none"
    with pytest.raises(ValueError, match="'momentum' was asked for, but it is zero"):
        curvature_along(objective, directions=["momentum"], momentum=torch.zeros(4))
    with pytest.raises(ValueError, match="expected names among gradient, momentum, random, eigenvector"):
        curvature_along(objective, directions=["sideways"])
    with pytest.raises(ValueError, match="momentum: expected a vector of shape"):
        curvature_along(objective, momentum=torch.ones(7))


def test_the_file_holds_the_dataset_and_the_pictures_show_it(tmp_path: Path) -> None:
    found = curvature_along(classifier(), samples=3)
    assert found.attrs["hessian_products"] == 4
    found.to_netcdf(tmp_path / "c.h5", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "c.h5", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), found)
    ax = plot_curvature_along(found)
    assert "loss" in ax.get_ylabel()
    plt.close(ax.figure)
    steps = xr.concat([found, found], "step").assign_coords(step=[1, 2])
    ax = compare_curvature_along({"SGD": steps, "SAM": steps}, direction="random")
    np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), [1, 2])
    plt.close(ax.figure)

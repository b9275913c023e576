from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sharpness_problems import classifier, regression

from analyses import compare_loss_surface, loss_surface, plot_loss_surface
from landscape.objective.directions import filter_normalized, gaussian, random_unit


def test_a_plane_of_a_quadratic_in_closed_form_on_a_true_grid() -> None:
    """Every row on the same abscissas: a zigzag through the grid would shift every other row by a step."""
    objective, g, h, theta = regression()
    found = loss_surface(objective, directions=["random", "random"], span=0.7, points=6, seed=3)
    generator = torch.Generator().manual_seed(3)
    d = random_unit(generator, theta)
    e = random_unit(generator, theta)
    e = e - d * (d @ e)
    e = e / e.norm()
    grid = np.linspace(-0.7, 0.7, 6)
    np.testing.assert_array_equal(found.a, grid)
    np.testing.assert_array_equal(found.b, grid)
    for a in grid:
        for b in grid:
            move = a * d + b * e
            expected = float(objective()) + float(g @ move) + float(move @ h @ move) / 2
            assert float(found.loss.sel(a=a, b=b)) == pytest.approx(expected, abs=1e-12)
    assert found.attrs["cosine"] == pytest.approx(0, abs=1e-12)
    assert found.attrs["evaluations"] == 36 + 1


def test_a_filter_normalised_line_and_its_seed() -> None:
    objective = classifier()
    found = loss_surface(objective, directions=["filter_normalized"], span=0.5, points=5, seed=6)
    raw = gaussian(torch.Generator().manual_seed(6), objective.theta)
    d = filter_normalized(raw, objective.theta, objective.space)
    for a in found.a.values:
        assert float(found.loss.sel(a=a)) == pytest.approx(float(objective(objective.theta + a * d)), abs=1e-14)
    assert found.a.attrs["units"] == "‖Δθ_f‖/‖θ_f‖"
    assert float(found.loss[2]) == float(found.center) == float(objective())
    assert found.loss.equals(loss_surface(objective, directions=["filter_normalized"], span=0.5, points=5, seed=6).loss)


def test_the_plane_of_the_two_largest_eigenvectors() -> None:
    objective, g, h, _ = regression()
    values, vectors = torch.linalg.eigh(h)
    found = loss_surface(objective, directions=["eigenvector", "eigenvector"], span=0.1, points=3)
    rise = found.loss - found.center
    for axis, index in (("a", -1), ("b", -2)):
        other = "b" if axis == "a" else "a"
        line = rise.sel({other: 0.0})
        # ± together leave the curvature, which is the eigenvalue
        assert float(line[0] + line[2]) / 0.01 == pytest.approx(float(values[index]), rel=1e-4)
        slope = abs(float(line[2] - line[0])) / 0.2
        assert slope == pytest.approx(abs(float(g @ vectors[:, index])), rel=1e-3)


def test_gradient_and_momentum_span_a_plane() -> None:
    objective = classifier()
    v = torch.randn(objective.size, dtype=torch.float64)
    found = loss_surface(objective, directions=["gradient", "momentum"], momentum=v, span=0.3, points=3)
    g = objective.gradient()
    assert float(found.loss.sel(a=0.3, b=0)) == pytest.approx(float(objective(objective.theta + 0.3 * g / g.norm())))
    with pytest.raises(ValueError, match="'momentum' is parallel to the first direction"):
        loss_surface(objective, directions=["gradient", "momentum"], momentum=g)
    with pytest.raises(ValueError, match="'momentum' was asked for, but there is none"):
        loss_surface(objective, directions=["momentum"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": ["up"]}, "expected names among filter_normalized"),
        ({"directions": ["random"] * 3}, "expected one or two"),
        ({"points": 1}, "at least 2 points"),
        ({"span": 0.0}, "positive, finite span"),
    ],
)
def test_bad_input_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_surface(regression()[0], **options)


def test_the_file_holds_the_dataset_and_the_pictures_show_it(tmp_path: Path) -> None:
    plane = loss_surface(classifier(), points=5)
    line = loss_surface(classifier(), directions=["random"], points=5)
    for found in (plane, line):
        found.to_netcdf(tmp_path / "s.h5", engine="h5netcdf")
        with xr.open_dataset(tmp_path / "s.h5", engine="h5netcdf") as read:
            xr.testing.assert_identical(read.load(), found)
        ax = plot_loss_surface(found)
        assert ax.get_xlabel().startswith("a, along")
        plt.close(ax.figure)
        ax = compare_loss_surface({"SGD": found, "SAM": found})
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["SGD", "SAM"]
        plt.close(ax.figure)
    runs = xr.concat([line, line * 1.1], "seed")
    ax = plot_loss_surface(runs)
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), runs.loss.mean("seed"))
    plt.close(ax.figure)

from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sharpness_problems import classifier, regression

from analyses import compare_directional_sharpness, directional_sharpness, plot_directional_sharpness
from landscape.objective.directions import filter_normalized, gaussian, random_unit, unit
from landscape.objective.objective import Objective

RADII = (-2.0, -0.5, -0.01, 0.0, 0.01, 0.3, 1.7)


def closed_form(g: torch.Tensor, h: torch.Tensor, d: torch.Tensor) -> np.ndarray:
    """ρ g·d + ρ²/2 dᵀHd: the rise of a quadratic."""
    rho = torch.tensor(RADII, dtype=torch.float64)
    return (rho * (g @ d) + rho**2 / 2 * (d @ h @ d)).numpy()


def test_quadratic_in_closed_form_along_every_kind_of_direction() -> None:
    objective, g, h, theta = regression()
    v = torch.randn(4, dtype=torch.float64)
    names = ("gradient", "momentum", "random", "filter_normalized")
    found = directional_sharpness(objective, radii=RADII, directions=names, momentum=v, samples=3, seed=7)

    def samples(draw):
        generator = torch.Generator().manual_seed(7)
        return [draw(generator) for _ in range(3)]

    expected = {
        "gradient": [g / g.norm()],
        "momentum": [v / v.norm()],
        "random": samples(lambda generator: random_unit(generator, theta)),
        "filter_normalized": samples(lambda s: filter_normalized(gaussian(s, theta), theta, objective.space)),
    }
    for name, directions in expected.items():
        rises = np.stack([closed_form(g, h, d) for d in directions])
        row = found.sel(direction=name)
        np.testing.assert_allclose(row.sample_sharpness[: len(rises)], rises, atol=1e-12)
        np.testing.assert_allclose(row.sharpness, rises.mean(0), atol=1e-12)
        assert np.isnan(row.sample_sharpness[len(rises) :]).all()
        assert row.sample_count == len(rises)
    assert float(found.loss) == pytest.approx(float(objective()), abs=0)
    np.testing.assert_allclose(found.length, [1, 1, 1, theta.norm()], rtol=1e-12)


def test_batch_gradient_is_the_mean_rise_of_each_batch_along_its_own_gradient() -> None:
    objective, *_ = regression()
    theta = objective.theta
    rises = []
    for x, y in objective.batches:
        g, h = x.T @ (x @ theta - y) / len(x), x.T @ x / len(x)
        rises.append(closed_form(g, h, g / g.norm()))
    found = directional_sharpness(objective, radii=RADII, directions=["batch_gradient"]).squeeze("direction")
    np.testing.assert_allclose(found.sharpness, np.mean(rises, 0), atol=1e-12)
    np.testing.assert_allclose(found.sharpness_sd, np.std(rises, 0, ddof=1), atol=1e-12)
    np.testing.assert_allclose(found.sharpness_stderr, np.std(rises, 0, ddof=1) / np.sqrt(3), atol=1e-12)


def test_a_random_direction_rises_by_half_rho_squared_trace_over_n_on_average() -> None:
    objective, _, h, _ = regression()
    found = directional_sharpness(objective, radii=[-0.8, 0.8], directions=["random"], samples=2000)
    even = found.sample_sharpness.mean("radius").squeeze()  # ± cancel the slope: only the curvature is left
    expected = 0.8**2 / 2 * float(h.trace()) / 4
    assert abs(float(even.mean()) - expected) < 4 * float(even.std()) / np.sqrt(2000)
    # and the stated standard error of the mean is the one that 40 groups of 50 samples show
    means = found.sample_sharpness.values[0].reshape(40, 50, 2).mean(1)
    assert np.std(means, axis=0, ddof=1) / np.sqrt(40) == pytest.approx(found.sharpness_stderr.values[0], rel=0.35)


def test_the_negative_side_is_the_positive_side_of_minus_momentum() -> None:
    objective = classifier()
    v = torch.randn(objective.size, dtype=torch.float64)
    there = directional_sharpness(objective, radii=RADII, directions=["momentum"], momentum=v)
    back = directional_sharpness(objective, radii=[-r for r in RADII], directions=["momentum"], momentum=-v)
    np.testing.assert_array_equal(there.sharpness, back.sharpness)
    d = unit(v)
    direct = [float(objective(objective.theta + r * d)) - float(objective()) for r in RADII]
    np.testing.assert_allclose(there.sharpness.squeeze(), direct, atol=1e-15)


def test_a_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    first, again, other = (directional_sharpness(classifier(), radii=[0.5], seed=s).sharpness for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_float32_gives_the_float64_rise() -> None:
    single = classifier(torch.float32)
    double = Objective(single.model, single.loss_fn, list(single.batches), dtype=torch.float64)
    found, exact = (
        directional_sharpness(objective, radii=[-1.0, 1.0], directions=["random", "filter_normalized"])
        for objective in (single, double)
    )
    np.testing.assert_allclose(found.sharpness, exact.sharpness, atol=2e-6)  # a few roundings of a loss near 1.1


def test_momentum_is_left_out_by_default_and_refused_when_asked_for() -> None:
    objective, *_ = regression()
    for momentum, reason in ((None, "there is none"), (torch.zeros(4), "it is zero")):
        found = directional_sharpness(objective, radii=[1.0], momentum=momentum)
        assert list(found.direction.values) == ["batch_gradient", "gradient", "random"]
        assert found.attrs["left_out"] == f"momentum: {reason}"
        with pytest.raises(ValueError, match=f"'momentum' was asked for, but {reason}"):
            directional_sharpness(objective, radii=[1.0], directions=["momentum"], momentum=momentum)
    found = directional_sharpness(objective, radii=[1.0], momentum=torch.ones(4))
    assert "momentum" in found.direction
    assert "left_out" not in found.attrs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": ["gradeint"]}, "expected names among gradient, momentum"),
        ({"directions": []}, "expected at least one of gradient"),
        ({"radii": []}, "radii: expected"),
        ({"radii": [1.0, float("nan")]}, "radii: expected"),
        ({"samples": 0}, "samples: expected at least 1"),
        ({"momentum": torch.ones(3)}, "momentum: expected a vector of shape"),
    ],
)
def test_bad_input_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        directional_sharpness(regression()[0], **{"radii": [1.0], **options})


def test_a_name_where_a_list_of_names_belongs_is_refused() -> None:
    with pytest.raises(TypeError, match="directions: expected a list, each entry text or none, got 'gradient'"):
        directional_sharpness(regression()[0], directions="gradient")


def test_cost_is_counted_and_as_stated() -> None:
    objective = classifier()
    found = directional_sharpness(objective, radii=[-1, 1], directions=["gradient", "random"], samples=4)
    assert found.attrs["gradient_evaluations"] == 1
    assert found.attrs["evaluations"] == (2 + 1) * (1 + 4)


def test_the_model_is_left_as_it_was() -> None:
    objective = classifier()
    objective.model.train()
    before = objective.theta
    directional_sharpness(objective, radii=[0.5], directions=["gradient", "batch_gradient", "filter_normalized"])
    assert torch.equal(objective.theta, before)
    assert objective.model.training
    assert all(p.grad is None for p in objective.model.parameters())


def test_the_file_holds_the_dataset(tmp_path: Path) -> None:
    found = directional_sharpness(classifier(), radii=[-1, 1], directions=["random", "filter_normalized"], samples=2)
    found.to_netcdf(tmp_path / "s.h5", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "s.h5", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), found)
        assert read.sel(direction="random").sharpness.attrs == {"units": "loss", "long_name": "rise of the loss S(ρ)"}
        assert str(read.sel(direction="filter_normalized").radius_unit.values) == "‖Δθ_f‖/‖θ_f‖"
    with h5py.File(tmp_path / "s.h5") as file:
        np.testing.assert_array_equal(file["sharpness"][:], found.sharpness)
        assert file["radius"].attrs["units"] == "‖Δθ‖₂"


def test_every_variable_has_a_unit_and_a_name() -> None:
    found = directional_sharpness(classifier(), radii=[1.0])
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in found.data_vars.values())


def over_seeds(seeds: int) -> xr.Dataset:
    runs = [directional_sharpness(classifier(), radii=RADII, directions=["random"], seed=s) for s in range(seeds)]
    return xr.concat(runs, "seed")


def test_the_picture_shows_the_dataset() -> None:
    found = directional_sharpness(classifier(), radii=RADII)
    ax = plot_directional_sharpness(found)
    for line, name in zip(ax.get_lines(), found.direction.values, strict=False):
        np.testing.assert_array_equal(line.get_xdata(), RADII)
        np.testing.assert_array_equal(line.get_ydata(), found.sharpness.sel(direction=name))
    assert r"$\|\Delta\theta\|_2$" in ax.get_xlabel()
    assert "[loss]" in ax.get_ylabel()
    plt.close(ax.figure)


def test_the_comparison_draws_means_and_standard_errors_over_seeds() -> None:
    data = over_seeds(4)
    _, ax = plt.subplots()
    assert compare_directional_sharpness({"SGD": data, "SAM": data}, ax, direction="random") is ax
    rises = data.sharpness.sel(direction="random").values
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), rises.mean(0))
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx((rises.mean(0) + rises.std(0, ddof=1) / 2).max())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["SGD", "SAM"]
    plt.close(ax.figure)


def test_the_axis_says_which_radii_are_relative() -> None:
    mixed = directional_sharpness(classifier(), radii=RADII, directions=["gradient", "filter_normalized"])
    ax = plot_directional_sharpness(mixed)
    assert "filter normalized: relative radius" in ax.get_xlabel()
    alone = plot_directional_sharpness(mixed.sel(direction=["filter_normalized"]))
    assert alone.get_xlabel().startswith("relative radius")
    plain = plot_directional_sharpness(mixed.sel(direction=["gradient"]))
    assert "relative" not in plain.get_xlabel()
    plt.close(plain.figure)
    plt.close(ax.figure)
    plt.close(alone.figure)

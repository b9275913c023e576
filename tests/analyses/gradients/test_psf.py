from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sharpness_problems import classifier, regression
from torch.func import functional_call, hessian

from analyses import compare_psf, plot_psf, psf


@pytest.mark.parametrize("rho", [1e-3, 0.5, 20.0])
def test_on_a_quadratic_the_linear_model_is_exact_at_every_radius(rho: float) -> None:
    objective, _, _, theta = regression()
    found = psf(objective, rho=rho)
    for i, (x, y) in enumerate(objective.batches):
        g, h = x.T @ (x @ theta - y) / len(x), x.T @ x / len(x)
        expected = float((rho * h @ g / g.norm()).norm())
        assert float(found.l2_psf[i]) == pytest.approx(expected, rel=1e-9)
        assert float(found.linear_norm[i]) == pytest.approx(expected, rel=1e-12)
        assert float(found.ratio[i]) == pytest.approx(expected / float(g.norm()), rel=1e-9)
    np.testing.assert_allclose(found.linear_cosine, 1, atol=1e-12)


def test_for_small_rho_it_is_rho_times_the_dense_hessian_times_the_unit_gradient() -> None:
    objective = classifier()
    theta = objective.theta
    for i, (x, y) in enumerate(objective.batches):

        def loss(point: torch.Tensor, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            return objective.loss_fn(functional_call(objective.model, objective.space.unflatten(point), (x,)), y)

        g = torch.func.grad(loss)(theta)
        expected = float((hessian(loss)(theta) @ g / g.norm()).norm())
        for rho in (1e-3, 1e-4):
            found = psf(objective, rho=rho)
            # the next order is ρ/2 · |third derivative|, of order one here; measured 0.2 ρ to 0.9 ρ
            assert float(found.l2_psf[i]) / rho == pytest.approx(expected, rel=3 * rho)
            assert float(found.linear_norm[i]) / rho == pytest.approx(expected, rel=1e-10)
            assert float(found.linear_cosine[i]) > 1 - rho


def test_the_linear_model_fails_in_proportion_to_the_radius() -> None:
    def error(rho: float) -> np.ndarray:
        found = psf(classifier(), rho=rho)
        return np.abs(found.l2_psf / found.linear_norm - 1).values

    np.testing.assert_allclose(error(2e-5) / error(1e-5), 2, rtol=0.01)


def test_means_and_standard_errors_are_over_batches() -> None:
    found = psf(classifier(), rho=0.1)
    for name in ("l2_psf", "gradient_norm", "ratio", "linear_norm", "linear_cosine"):
        assert float(found[f"{name}_mean"]) == pytest.approx(float(found[name].mean()))
        assert float(found[f"{name}_stderr"]) == pytest.approx(float(found[name].std(ddof=1)) / np.sqrt(3))
    assert psf(classifier(), rho=0.1, batches=2).sizes["batch"] == 2
    assert np.isnan(psf(classifier(), rho=0.1, batches=1).l2_psf_stderr)


@pytest.mark.parametrize(
    ("options", "message"), [({"rho": 0.0}, "rho"), ({"rho": float("nan")}, "rho"), ({"batches": 0}, "batches")]
)
def test_bad_input_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}: expected"):
        psf(regression()[0], **options)


def test_a_stationary_batch_is_refused() -> None:
    objective, *_ = regression()
    for parameter in objective.model.parameters():
        torch.nn.init.zeros_(parameter)
    (x, _), *_ = objective.batches
    with pytest.raises(ValueError, match="the gradient of a batch: expected a finite, non-zero vector"):
        psf(objective.on([(x, torch.zeros(len(x), dtype=torch.float64))]))


def test_cost_is_counted_and_as_stated() -> None:
    found = psf(classifier(), rho=0.1)
    assert (found.attrs["gradient_evaluations"], found.attrs["hessian_products"]) == (2, 1)


def test_the_file_holds_the_dataset(tmp_path: Path) -> None:
    found = psf(classifier(), rho=0.1)
    found.to_netcdf(tmp_path / "p.h5", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "p.h5", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), found)
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in found.data_vars.values())


def test_the_pictures_show_the_dataset() -> None:
    found = psf(classifier(), rho=0.1)
    ax = plot_psf(found)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), found.l2_psf)
    plt.close(ax.figure)

    seeds = xr.concat([psf(classifier(), rho=rho) for rho in (0.1, 0.2)], "seed")
    steps = xr.concat([seeds, 2 * seeds], "step").assign_coords(step=[10, 20])
    ax = compare_psf({"SGD": steps, "SAM": steps}, quantity="l2_psf")
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), steps.l2_psf_mean.mean("seed"))
    plt.close(ax.figure)
    ax = plot_psf(steps)
    assert ax.get_xlabel() == "training step"
    plt.close(ax.figure)

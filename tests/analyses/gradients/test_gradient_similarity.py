from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sharpness_problems import classifier, regression

from analyses import compare_angle, compare_gradient_similarity, gradient_similarity, plot_gradient_similarity
from landscape.objective.objective import Objective


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def pair(found: xr.Dataset, first: str, second: str) -> np.ndarray:
    return found.cosine.sel(gradient=first, other=second).values


def test_every_cosine_of_a_quadratic_in_closed_form() -> None:
    objective, full, _, theta = regression()
    v, m = torch.randn(2, 4, dtype=torch.float64)
    found = gradient_similarity(
        objective, momentum=v, rho_sam=0.4, rho_msam=2.0, gradient_average=m, noise_weight=0.7, rho_msam_grid=[0.0]
    )
    for i, (x, y) in enumerate(objective.batches):
        g, h = x.T @ (x @ theta - y) / len(x), x.T @ x / len(x)
        vectors = {
            "sgd": g,
            "sam": g + 0.4 * h @ g / g.norm(),
            "msam": g - 2.0 * h @ v / v.norm(),
            "full": full,
            "momentum": v,
            "noise": g - 0.7 * m,
        }
        assert list(found.gradient.values) == list(vectors)
        for a in vectors:
            assert float(found.norm.sel(gradient=a)[i]) == pytest.approx(float(vectors[a].norm()))
            for b in vectors:
                assert pair(found, a, b)[i] == pytest.approx(cosine(vectors[a], vectors[b]), abs=1e-12)
    np.testing.assert_allclose(found.cosine_mean, found.cosine.mean("batch"))
    np.testing.assert_allclose(found.cosine_stderr, found.cosine.std("batch", ddof=1) / np.sqrt(3), atol=1e-15)


def test_cosine_is_one_where_it_must_be() -> None:
    objective = classifier()
    v = torch.randn(objective.size, dtype=torch.float64)
    still = gradient_similarity(objective, momentum=v, rho_sam=0.0, rho_msam=0.0, rho_msam_grid=[0.0])
    np.testing.assert_allclose(pair(still, "sgd", "sam"), 1, atol=1e-14)  # ρ = 0: no perturbation
    np.testing.assert_allclose(pair(still, "sgd", "msam"), 1, atol=1e-14)

    whole = objective.on([objective.batches[0]])  # one batch is all the data
    np.testing.assert_allclose(pair(gradient_similarity(whole), "sgd", "full"), 1, atol=1e-14)

    moved = gradient_similarity(objective, momentum=v, rho_sam=0.3, rho_msam=0.3)
    for name in moved.gradient.values:
        np.testing.assert_allclose(pair(moved, name, name), 1, atol=1e-14)


def test_msam_is_sam_where_the_momentum_is_minus_the_gradient() -> None:
    objective = classifier()
    one = objective.on([objective.batches[1]])
    found = gradient_similarity(
        one, momentum=-one.gradient(), rho_sam=0.3, rho_msam=0.3, rho_msam_grid=[0, 0.2, 0.3, 0.4]
    )
    np.testing.assert_allclose(pair(found, "sam", "msam"), 1, atol=1e-12)
    assert float(found.angle.sel(rho_msam=0.3)[0]) == pytest.approx(0, abs=1e-9)
    assert float(found.closest[0]) == 0.3
    # interpolated between 0.2 and 0.3 or between 0.3 and 0.4, whichever side rounding puts the zero on
    assert float(found.zero_crossing[0]) == pytest.approx(0.3, abs=1e-6)
    assert float(found.mean_zero_crossing) == float(found.zero_crossing[0])
    assert found.attrs["crossings"] == "1 of 1 batches"
    # at ρ = 0 it is the plain gradient: in the plane, on its other side, by the angle between SGD and SAM
    assert float(found.out_of_plane[0, 0]) == pytest.approx(0, abs=1e-12)
    assert float(found.angle[0, 0]) == pytest.approx(-np.arccos(pair(found, "sgd", "sam")[0]), rel=1e-6)


def test_no_crossing_is_said_plainly() -> None:
    objective = classifier()
    found = gradient_similarity(objective, momentum=torch.ones(objective.size), rho_msam_grid=[0.0, 1e-6])
    assert found.attrs["crossings"] == "none on the grid"
    assert np.isnan(found.mean_zero_crossing)
    assert np.isfinite(found.mean_closest)


def test_isotropic_curvature_turns_no_gradient() -> None:
    x = torch.cat([torch.eye(3, dtype=torch.float64)] * 2)
    model = torch.nn.Linear(3, 1, bias=False).double()

    def loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (prediction[:, 0] - target).square().mean()

    y = torch.arange(6, dtype=torch.float64).remainder(3)
    found = gradient_similarity(Objective(model, loss, [(x, y)]), rho_sam=5.0)
    np.testing.assert_allclose(pair(found, "sgd", "sam"), 1, atol=1e-14)


def test_what_is_missing_is_left_out_and_said() -> None:
    objective = classifier()
    assert list(gradient_similarity(objective).gradient.values) == ["sgd", "sam", "full"]
    assert "there is no momentum" in gradient_similarity(objective).attrs["left_out"]
    zero = gradient_similarity(objective, momentum=torch.zeros(objective.size))
    assert "zero momentum" in zero.attrs["left_out"]
    assert "angle" not in zero


def test_f_sam_noises_of_equal_batches_cancel() -> None:
    """With the full gradient as the average and σ = 1 the noise is what a batch adds to it: nothing, summed over
    all."""
    objective, full, *_ = regression(sizes=(6, 6, 6))
    found = gradient_similarity(objective, gradient_average=full)
    noise = found.norm.sel(gradient="noise").values[:, None] * pair(found, "noise", "full")[:, None]
    assert float(noise.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": torch.ones(3)}, r"momentum: expected a vector of shape \(4,\); got \(3,\)"),
        ({"gradient_average": torch.ones(9)}, "gradient_average: expected a vector"),
        ({"rho_sam": float("inf")}, "rho_sam: expected a finite number at least 0, got inf"),
        ({"batches": 0}, "batches: expected a whole number at least 1, got 0"),
    ],
)
def test_bad_input_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient_similarity(regression()[0], **options)


def test_cost_is_counted_and_as_stated() -> None:
    objective, *_ = regression(sizes=(6, 6, 6, 6))
    found = gradient_similarity(objective, momentum=torch.ones(4), rho_msam_grid=[0, 1, 2], batches=2)
    assert found.attrs["gradient_evaluations"] == 1 + (3 + 3) * 2 / 4


def test_the_file_holds_the_dataset(tmp_path: Path) -> None:
    objective = classifier()
    found = gradient_similarity(objective, momentum=torch.ones(objective.size))
    found.to_netcdf(tmp_path / "g.h5", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "g.h5", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), found)
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in found.data_vars.values())


def test_the_pictures_show_the_dataset() -> None:
    objective = classifier()
    runs = [gradient_similarity(objective, momentum=torch.randn(objective.size), rho_sam=0.3) for _ in range(3)]
    ax = plot_gradient_similarity(runs[0])
    np.testing.assert_array_equal(ax.images[0].get_array(), runs[0].cosine_mean)
    plt.close(ax.figure)

    data = xr.concat(runs, "seed")
    ax = compare_angle({"SGD": data, "SAM": data})
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), np.degrees(data.angle_mean.mean("seed")))
    assert "[°]" in ax.get_ylabel()
    plt.close(ax.figure)

    over_steps = xr.concat([data, data], "step").assign_coords(step=[0, 100])
    ax = compare_gradient_similarity({"SGD": over_steps, "SAM": over_steps})
    np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), [0, 100])
    plt.close(ax.figure)
    ax = compare_gradient_similarity({"SGD": data, "SAM": data}, pair=("sgd", "sam"))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["SGD", "SAM"]
    plt.close(ax.figure)


def test_a_comparison_of_what_was_not_measured_says_why() -> None:
    found = gradient_similarity(classifier())
    with pytest.raises(ValueError, match=r"SGD: there is no 'angle_mean' to draw \(msam, momentum, angle: there is no"):
        compare_angle({"SGD": found})
    plt.close("all")

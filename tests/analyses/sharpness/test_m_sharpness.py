from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from sharpness_problems import classifier, regression
from torch import nn

from analyses import compare_m_sharpness, directional_sharpness, m_sharpness, plot_m_sharpness
from landscape.objective.objective import Objective


def groups_of(objective: Objective, m: int, seed: int = 0):
    x, y = (torch.cat(part) for part in zip(*objective.batches, strict=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    count = len(y) // m
    chosen = order[: count * m].reshape(count, m)
    return [(x[i], y[i]) for i in chosen]


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("m", [1, 4, 21])
def test_one_step_on_a_quadratic_in_closed_form(m: int, adaptive: bool) -> None:
    objective, *_, theta = regression()
    rises = []
    for x, y in groups_of(objective, m):
        g, h = x.T @ (x @ theta - y) / m, x.T @ x / m
        scale = theta.abs() if adaptive else torch.ones_like(theta)
        epsilon = 0.3 * scale**2 * g / (scale * g).norm()
        rises.append(float(g @ epsilon + epsilon @ h @ epsilon / 2))
    found = m_sharpness(objective, m=[m], rho=0.3, adaptive=adaptive).squeeze("m")
    assert float(found.sharpness) == pytest.approx(np.mean(rises), rel=1e-12)
    assert int(found.groups) == 21 // m
    if m < 21:
        assert float(found.sharpness_stderr) == pytest.approx(np.std(rises, ddof=1) / np.sqrt(21 // m), rel=1e-10)
    else:
        assert np.isnan(found.sharpness_stderr)


def test_of_all_examples_it_is_the_sharpness_along_the_gradient() -> None:
    objective = classifier()
    along = directional_sharpness(objective, radii=[0.2], directions=["gradient"])
    found = m_sharpness(objective, m=[26], rho=0.2)
    assert float(found.sharpness[0]) == pytest.approx(float(along.sharpness.squeeze()), rel=1e-10)


def test_many_steps_reach_the_largest_rise_of_a_quadratic() -> None:
    """On a ball the maximum of gᵀε + εᵀHε/2 solves (λ − H) ε = g with λ ≥ λ_max and ‖ε‖ = ρ."""
    objective, *_, theta = regression(sizes=(21,))
    x, y = objective.batches[0]
    g, h = x.T @ (x @ theta - y) / 21, x.T @ x / 21
    values, vectors = torch.linalg.eigh(h)
    coefficients = vectors.T @ g
    low, high = float(values.max()) + 1e-9, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((coefficients / (middle - values)).norm()) > 0.5 else (low, middle)
    epsilon = vectors @ (coefficients / (middle - values))
    largest = float(g @ epsilon + epsilon @ h @ epsilon / 2)
    one, many = (float(m_sharpness(objective, m=[21], rho=0.5, ascent_steps=s).sharpness[0]) for s in (1, 100))
    assert one < many
    assert many == pytest.approx(largest, rel=1e-9)


def test_more_steps_never_give_less() -> None:
    found = [m_sharpness(classifier(), m=(1, 5), rho=0.3, ascent_steps=s).sharpness.values for s in (1, 2, 5)]
    assert (found[1] >= found[0]).all()
    assert (found[2] >= found[1]).all()


def test_a_model_that_vmap_does_not_know_gives_the_same_numbers_one_by_one() -> None:
    class Branching(nn.Module):
        def __init__(self, branch: bool) -> None:
            super().__init__()
            self.linear, self.branch = nn.Linear(3, 2).double(), branch

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.linear(x)
            if self.branch and bool((out > 1e9).any()):  # control flow by values: not for vmap
                return 2 * out
            return out

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, generator=generator, dtype=torch.float64), torch.arange(12) % 2
    found = []
    for branch in (False, True):
        torch.manual_seed(1)
        found.append(
            m_sharpness(Objective(Branching(branch), nn.CrossEntropyLoss(), [(x, y)]), m=(1, 3), ascent_steps=2)
        )
    np.testing.assert_allclose(found[0].sharpness, found[1].sharpness, rtol=1e-12)
    assert [f.attrs["vectorized"] for f in found] == [1, 0]


def test_by_default_groups_grow_as_far_as_there_are_examples() -> None:
    assert list(m_sharpness(regression()[0]).m.values) == [1, 4, 16]


def test_cost_is_counted_and_the_model_is_left_as_it_was() -> None:
    objective = classifier()
    before = objective.theta
    found = m_sharpness(objective, m=(1, 2), ascent_steps=3)
    assert found.attrs["gradient_evaluations"] == pytest.approx(6)
    assert found.attrs["evaluations"] == pytest.approx(8)
    assert torch.equal(before, objective.theta)
    assert all(p.grad is None for p in objective.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"m": (0,)}, "m: expected group sizes between 1 and the number of examples, 21; got 0"),
        ({"m": (22,)}, "got 22"),
        ({"rho": -1.0}, "positive, finite rho"),
        ({"ascent_steps": 0}, "at least 1 step"),
    ],
)
def test_bad_input_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        m_sharpness(regression()[0], **options)


def test_the_file_holds_the_dataset_and_the_pictures_show_it(tmp_path: Path) -> None:
    found = m_sharpness(classifier(), m=(1, 4, 13))
    found.to_netcdf(tmp_path / "m.h5", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "m.h5", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), found)
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in found.data_vars.values())
    ax = plot_m_sharpness(found)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), found.sharpness)
    plt.close(ax.figure)
    ax = compare_m_sharpness({"SGD": found, "SAM": found})
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "4", "13"]
    plt.close(ax.figure)

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.gradients.plane import angle_and_outside, closest, followed, plane, zero_crossing


def orthonormal(n: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q.T


@settings(deadline=None)
@given(
    turn=st.floats(0.01, 3.0),
    angle=st.floats(-3.0, 3.0),
    outside=st.floats(0, 0.99),
    lengths=st.tuples(*[st.floats(0.1, 10)] * 3),
)
def test_a_vector_of_known_angle_and_known_part_outside(turn, angle, outside, lengths) -> None:
    """g and g_SAM at an angle `turn`; x at `angle` beyond g_SAM inside their plane, with the fraction `outside`
    across."""
    x, y, z, *_ = orthonormal()
    sam = lengths[0] * x
    gradient = lengths[1] * (np.cos(turn) * x - np.sin(turn) * y)
    vector = lengths[2] * (np.sqrt(1 - outside**2) * (np.cos(angle) * x + np.sin(angle) * y) + outside * z)
    basis = plane(gradient, sam)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2, dtype=torch.float64))
    found, fraction = angle_and_outside(vector, basis)
    assert float(found) == pytest.approx(angle, abs=1e-9)
    assert float(fraction) == pytest.approx(outside, abs=1e-9)
    assert float(angle_and_outside(gradient, basis)[0]) == pytest.approx(-turn)


def test_parallel_gradients_span_no_plane() -> None:
    g = torch.randn(5, dtype=torch.float64)
    angle, _ = angle_and_outside(g, plane(g, 1.7 * g))
    assert torch.isnan(angle)


@settings(deadline=None)
@given(root=st.floats(0.05, 2.95), slope=st.floats(0.01, 1.0))
def test_the_crossing_of_a_straight_line_is_its_root(root: float, slope: float) -> None:
    grid = np.linspace(0, 3, 13)
    assert zero_crossing(grid, slope * (grid - root)) == pytest.approx(root)
    assert zero_crossing(grid, -slope * (grid - root)) == pytest.approx(root)


def test_no_crossing_is_nan_and_the_closest_point_is_still_named() -> None:
    grid = np.array([0.0, 1.0, 2.0])
    assert np.isnan(zero_crossing(grid, np.array([-1.0, -0.2, -0.5])))
    assert closest(grid, np.array([-1.0, -0.2, -0.5])) == 1.0
    assert np.isnan(closest(grid, np.full(3, np.nan)))


def test_the_branch_cut_is_no_crossing() -> None:
    grid = np.array([-1.0, 0.0, 1.0, 2.0])
    angle = followed(grid, np.array([3.0, -2.9, -3.1, 3.1]))
    np.testing.assert_allclose(angle, [3.0 - 2 * np.pi, -2.9, -3.1, 3.1 - 2 * np.pi])
    assert np.isnan(zero_crossing(grid, angle))


@given(turns=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=8), start=st.floats(-3.0, 3.0))
@settings(deadline=None)
def test_a_turning_angle_is_followed_through_any_number_of_turns(turns: list[float], start: float) -> None:
    true = start + np.concatenate([[0.0], np.cumsum(turns)])
    wrapped = np.arctan2(np.sin(true), np.cos(true))
    np.testing.assert_allclose(followed(np.arange(len(true)), wrapped), true, atol=1e-9)


def test_the_first_crossing_counts() -> None:
    grid = np.array([0.0, 1.0, 2.0])
    assert zero_crossing(grid, np.array([-1.0, 1.0, -1.0])) == 0.5
    assert zero_crossing(grid, np.array([0.0, 1.0, 2.0])) == 0.0
    assert zero_crossing(grid, np.array([-2.0, -1.0, 0.0])) == 2.0

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from analyses import figures


@pytest.fixture
def ax():
    with figures.axes() as ax:
        for shift in range(5):
            figures.band(ax, np.arange(6), np.arange(6) + shift, np.full(6, 0.2), f"method {shift}")
        ax.set_xlabel("x")
        ax.set_ylabel("y")
        figures.legend(ax)
        yield ax
    plt.close(ax.figure)


def test_saving_twice_gives_the_same_bytes_and_no_time(ax, tmp_path: Path) -> None:
    first, second = figures.save(ax.figure, tmp_path / "a/one"), figures.save(ax.figure, tmp_path / "two.png")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert b"Date" not in one.read_bytes()
    assert [path.name for path in first] == ["one.png", "one.pdf"]
    assert first[1].read_bytes().startswith(b"%PDF")


def test_a_name_with_a_dot_keeps_it(ax, tmp_path: Path) -> None:
    assert figures.save(ax.figure, tmp_path / "rho 0.05")[0].name == "rho 0.05.png"


def test_one_column_at_300_dpi(ax, tmp_path: Path) -> None:
    png, _ = figures.save(ax.figure, tmp_path / "one")
    assert plt.imread(png).shape[1] == round(figures.COLUMN * 300)


def test_the_legend_covers_nothing_and_nothing_leaves_the_page(ax) -> None:
    figure = ax.figure
    figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert not legend.overlaps(ax.get_window_extent().padded(-1))
    page = figure.bbox
    for artist in (ax.get_legend(), ax.xaxis.label, ax.yaxis.label):
        box = artist.get_window_extent()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1


def test_lines_differ_in_more_than_colour() -> None:
    with figures.style():
        cycle = list(plt.rcParams["axes.prop_cycle"])
    for key in ("color", "linestyle", "marker"):
        assert len({str(entry[key]) for entry in cycle}) == len(cycle)


def test_the_style_ends_with_its_context() -> None:
    before = mpl.rcParams["font.size"]
    with figures.style():
        assert mpl.rcParams["font.size"] == 8
    assert mpl.rcParams["font.size"] == before


def test_means_and_standard_errors_over_seeds_skip_what_is_missing() -> None:
    data = xr.Dataset({"x": (("seed", "t"), [[1.0, 5.0], [2.0, np.nan], [6.0, np.nan]])})
    mean, error = figures.over_seeds(data, "x")
    np.testing.assert_allclose(mean, [3, 5])
    np.testing.assert_allclose(error, [np.std([1, 2, 6], ddof=1) / np.sqrt(3), np.nan])


def test_labels_come_from_the_data() -> None:
    assert figures.label(xr.DataArray(0, attrs={"long_name": "radius ρ", "units": "‖Δθ‖₂"})) == "radius ρ [‖Δθ‖₂]"
    assert figures.label(xr.DataArray(0, attrs={"long_name": "cosine", "units": "1"})) == "cosine"

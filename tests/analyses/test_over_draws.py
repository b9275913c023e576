"""Law of every analysis of a checkpoint: over several random subsets each answer is that of the subset asked for alone,
and the spread over them is a standard deviation over data, said as such."""

import inspect
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from every_analysis import QUICK
from torch.func import functional_call

import analyses
from analyses import saved
from analyses.over_draws import plot_draws
from landscape.__main__ import main
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.training.training import train

EXPERIMENT = Experiment(
    data_options={"train_examples": 80}, model_options={"widths": [3], "batch_norm": True}, batch_size=16, epochs=1
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {seed: train(EXPERIMENT.replace(seed=seed), folder / str(seed), progress=False) for seed in (0, 1)}


def options_of(name: str, runs: dict[int, Run]) -> dict[str, Any]:
    known = analyses.get(name).options
    quick = {key: value for key, value in QUICK.get(name, {}).items() if key in known}
    return {**quick, **({"other": runs[1]} if "other" in known else {})}


@pytest.mark.parametrize("name", analyses.available())
def test_each_draw_is_the_answer_asked_for_alone(name: str, runs: dict[int, Run], tmp_path: Path) -> None:
    ask, checkpoint, options = analyses.get(name), runs[0].checkpoint(), options_of(name, runs)
    found = ask(checkpoint, examples=40, draw=1, draws=2, **options)
    alone = [ask(checkpoint, examples=40, draw=draw, **options) for draw in (1, 2)]
    assert found.draw.values.tolist() == [1, 2]
    assert found.attrs["draws"] == 2
    assert found.attrs["error_over_draws"].startswith("2 random subsets of 40 of 80 examples")
    for key in ("evaluations", "gradient_evaluations", "hessian_products"):
        assert found.attrs[key] == sum(one.attrs[key] for one in alone)
    for index, one in enumerate(alone):
        for variable, values in one.data_vars.items():
            row = found[variable].isel(draw=index).sel({dim: one[dim] for dim in one.indexes if dim in values.dims})
            np.testing.assert_array_equal(row.transpose(*values.dims), values, err_msg=str(variable))
            assert found[variable].attrs == values.attrs
    numbers = [variable for variable in alone[0].data_vars if f"{variable}_over_draws" in found]
    assert numbers
    for variable in numbers:
        pair = np.stack([one[variable].values for one in alone])
        np.testing.assert_allclose(found[f"{variable}_over_draws"], pair.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found[f"{variable}_over_draws_sd"], pair.std(0, ddof=1), rtol=1e-9)
        error = found[f"{variable}_over_draws_stderr"]
        np.testing.assert_allclose(error, pair.std(0, ddof=1) / 2**0.5, rtol=1e-9)
        assert "standard error over draws" in error.attrs["long_name"]
        assert error.attrs["units"] == alone[0][variable].attrs.get("units", "1")
    saved.write(found, tmp_path / "answer.h5")
    xr.testing.assert_equal(saved.read(tmp_path / "answer.h5", name), found)
    plt.close(ask.draw(found).get_figure())


def test_the_largest_eigenvalue_of_each_subset_is_that_of_its_dense_hessian(runs: dict[int, Run]) -> None:
    """In float64, by torch alone, within the residual's bound; mean, standard deviation and error beside it."""
    checkpoint = runs[0].checkpoint()
    found = analyses.top_eigenvalues(checkpoint, k=1, tol=1e-6, examples=20, draws=4, dtype=torch.float64)
    model = checkpoint.model().double().eval()
    names, blocks = zip(*((name, p.detach()) for name, p in model.named_parameters()), strict=True)
    values = []
    for draw in range(4):
        ((x, y),) = checkpoint.objective(examples=20, draw=draw, dtype=torch.float64).batches

        def loss(*weights: torch.Tensor, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(
                functional_call(model, dict(zip(names, weights, strict=True)), (x,)), y
            )

        rows = torch.autograd.functional.hessian(loss, blocks)
        dense = torch.cat(
            [torch.cat([h.reshape(p.numel(), -1) for h in row], 1) for p, row in zip(blocks, rows, strict=True)]
        )
        values.append(float(torch.linalg.eigvalsh(dense)[-1]))
    error = np.abs(found.eigenvalue.values[:, 0] - values)
    assert (error <= found.error_bound.values[:, 0] + 1e-12).all()
    np.testing.assert_allclose(found.eigenvalue[:, 0], values, rtol=1e-9)
    assert float(found.eigenvalue_over_draws[0]) == pytest.approx(np.mean(values), rel=1e-9)
    assert float(found.eigenvalue_over_draws_sd[0]) == pytest.approx(np.std(values, ddof=1), rel=1e-6)
    assert float(found.eigenvalue_over_draws_stderr[0]) == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-6)
    assert float(found.eigenvalue_over_draws_sd[0]) > 100 * float(found.error_bound.max())


@pytest.mark.parametrize("name", [n for n in analyses.available() if "seed" in analyses.get(n).options])
def test_what_an_analysis_draws_itself_is_drawn_anew_for_every_subset(
    name: str, runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared by all of them it would be in no spread over them."""
    seen: list[int] = []
    found = analyses.get(name)

    def watch(_objective: object, *, seed: int, **_: Any) -> xr.Dataset:
        seen.append(seed)
        return xr.Dataset({"x": 1.0})

    watch.__signature__ = inspect.signature(found.function)  # type: ignore[attr-defined]
    monkeypatch.setattr(found, "function", watch)
    found(runs[0].checkpoint(), examples=40, draws=3)
    found(runs[0].checkpoint())
    assert len(set(seen)) == 3
    assert seen[0] == seen[3], "the first draw is drawn from as it was before there were several"


def test_from_the_command_line_and_in_the_key(runs: dict[int, Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs[0].path)
    asked = ["analyze", run, "top_eigenvalues", "--k", "1", "--examples", "40"]
    for more in ([], ["--draws", "2"], ["--draws", "3"], ["--draws", "2", "--draw", "1"]):
        assert main([*asked, *more]) == 0
    files = sorted((runs[0].path / "analyses").glob("top_eigenvalues-*"))
    assert len(files) == 4
    assert sorted(saved.read(file).sizes.get("draw", 0) for file in files) == [0, 2, 2, 3]
    assert "eigenvalue_over_draws_stderr" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["analyze", run, "top_eigenvalues", "--help"])
    assert "--draws" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 3}, "expected examples beside it"),
        ({"draws": 0, "examples": 40}, "draws: expected at least 1, got 0"),
        ({"draws": 2, "examples": 80}, "expected fewer examples than all"),
    ],
)
def test_what_has_no_spread_is_refused(options: dict[str, Any], message: str, runs: dict[int, Run]) -> None:
    with pytest.raises(ValueError, match=message):
        analyses.trace(runs[0].checkpoint(), max_products=2, **options)
    with pytest.raises(TypeError, match="choose a checkpoint's objective"):
        analyses.trace(runs[0].checkpoint().objective(), draws=2)


def test_the_picture_shows_each_draw_with_its_own_error_and_the_spread(runs: dict[int, Run]) -> None:
    found = analyses.top_eigenvalues(runs[0].checkpoint(), k=2, examples=40, draws=3)
    ax = plot_draws(found)
    first = ax.get_lines()[0]
    np.testing.assert_array_equal(first.get_ydata(), found.eigenvalue[:, 0])
    assert ax.get_ylabel() == "Hessian eigenvalue [loss/‖θ‖₂²]"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["k = 1", "k = 2"]
    plt.close(ax.get_figure())
    with pytest.raises(ValueError, match="expected a variable over draw"):
        plot_draws(found, "gap_bound")

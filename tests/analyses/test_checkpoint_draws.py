"""Law of every analysis of a checkpoint: what it draws at random is drawn anew for every run and step, its batches are
those of training, and a part of the data is not the whole."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from every_analysis import QUICK
from torch import nn

import analyses
from analyses import saved
from analyses.draws import seed_at
from analyses.registry import Analysis
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.objective.objective import Objective
from landscape.runs.run import Run
from landscape.training.training import train

EXPERIMENT = Experiment(
    data_options={"train_examples": 150},
    model_options={"widths": [6], "batch_norm": True},
    batch_size=32,
    epochs=1,
)
EACH = Execution(checkpoint_every=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        seed: train(dataclasses.replace(EXPERIMENT, seed=seed), folder / str(seed), execution=EACH, progress=False)
        for seed in (0, 1)
    }


def second(name: str, runs: dict[int, Run]) -> dict[str, Any]:
    """The other checkpoint, for an analysis of two."""
    return {"other": runs[1]} if "other" in analyses.get(name).options else {}


@pytest.mark.parametrize("name", [n for n in analyses.available() if "seed" in analyses.get(n).options])
def test_every_seed_is_another_for_another_run_and_step(
    name: str, runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, Objective]] = []
    found = analyses.get(name)

    def watch(objective: Objective, *, seed: int = found.options["seed"].default, **_: Any) -> xr.Dataset:
        seen.append((seed, objective))
        return xr.Dataset()

    watch.__signature__ = inspect.signature(found.function)  # type: ignore[attr-defined]
    monkeypatch.setattr(found, "function", watch)
    for run, step in ((0, "last"), (1, "last"), (0, "first"), (0, "last")):
        found(runs[run].checkpoint(step), seed=5)
    seeds = [seed for seed, _ in seen]
    assert len(set(seeds)) == 3
    assert seeds[0] == seeds[3]
    found(runs[0].checkpoint().objective(), seed=5)  # an objective is asked with the seed as it is
    assert seen[-1][0] == 5


def test_methods_of_one_seed_share_their_draws_and_imported_weights_do_not(runs: dict[int, Run]) -> None:
    """The same in every method, so that a paired difference does not carry the draw."""

    @dataclasses.dataclass
    class Stand:
        experiment: Experiment
        step: int
        attributes: dict[str, Any]

    sam, sgd = (Stand(EXPERIMENT.replace(optimizer=name), 3, {}) for name in ("sam", "plain"))
    a, b = (Stand(EXPERIMENT, 0, {"imported_from": file}) for file in ("a.pt", "b.pt"))
    assert seed_at(sam, 0) == seed_at(sgd, 0)  # type: ignore[arg-type]
    assert seed_at(a, 0) != seed_at(b, 0)  # type: ignore[arg-type]
    assert seed_at(sam, 0) != seed_at(sam, 1)  # type: ignore[arg-type]


def minibatched() -> list[Analysis]:
    return [analyses.get(name) for name in analyses.available() if analyses.get(name).minibatches]


@pytest.mark.parametrize("analysis", minibatched(), ids=lambda analysis: analysis.name)
def test_batches_have_the_size_trained_with_and_are_not_in_the_order_of_the_data(
    analysis: Analysis, runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Objective] = []

    def watch(objective: Objective, **_: Any) -> xr.Dataset:
        seen.append(objective)
        return xr.Dataset()

    watch.__signature__ = inspect.signature(analysis.function)  # type: ignore[attr-defined]
    monkeypatch.setattr(analysis, "function", watch)
    checkpoint = runs[0].checkpoint()
    analysis(checkpoint)
    analysis(checkpoint, seed=1)
    plain = checkpoint.data().split("train")
    for objective in seen:
        assert objective.batches.counts == (32, 32, 32, 32, 22)
        assert objective.examples == 150
        assert not torch.equal(objective.batches[0][0], plain.inputs[:32])
    assert not torch.equal(seen[0].batches[0][0], seen[1].batches[0][0])


@pytest.mark.parametrize("options", [{"widths": [6], "batch_norm": True}, {"widths": [6]}], ids=["BatchNorm", "none"])
@pytest.mark.parametrize("analysis", minibatched(), ids=lambda analysis: analysis.name)
def test_sums_over_all_data_walk_large_batches_where_that_changes_no_number(
    analysis: Analysis, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward passes of the model are counted; with the batch's own statistics it is another function, and stays."""
    checkpoint = train(
        EXPERIMENT.replace(model_options=options, precision="float64", batch_size=10), tmp_path, progress=False
    ).checkpoint()
    seen: list[Objective] = []
    function, few = analysis.function, QUICK[analysis.name]

    def watch(objective: Objective, **asked: Any) -> xr.Dataset:
        seen.append(objective)
        return function(objective, **asked)

    watch.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    monkeypatch.setattr(analysis, "function", watch)

    def passes(ask: Callable[[], xr.Dataset]) -> tuple[int, xr.Dataset]:
        calls = 0
        call = nn.Linear.forward

        def counted(layer: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += layer.out_features == 10
            return call(layer, inputs)

        with monkeypatch.context() as patch:
            patch.setattr(nn.Linear, "forward", counted)
            found = ask()
        return calls, found

    many, found = passes(lambda: analysis(checkpoint, **few))
    (objective,) = seen
    same_function = analysis.mode == "eval" or "batch_norm" not in options
    assert (objective.batches.larger is not None) == same_function
    assert objective.batches.counts == (10,) * 15
    objective.batches.larger = None
    given = {name: checkpoint.vectors[name] for name in ("momentum",) if name in analysis.options}
    before, expected = passes(lambda: analysis(objective, **few, **given, seed=seed_at(checkpoint, 0)))
    for name, values in expected.data_vars.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=str(name))
    sums = analysis.name != "psf"  # which asks of single batches only
    assert (before - many > 10) == (same_function and sums)
    if analysis.name == "directional_sharpness":
        assert before - many >= 14 * 7  # of gradient, momentum and two random vectors: 15 batches are one


def test_the_batch_gradient_of_a_checkpoint_is_that_of_its_minibatches(runs: dict[int, Run]) -> None:
    """And the mean over batches of the rise along each batch's own gradient, not the rise along the full one."""
    checkpoint = runs[0].checkpoint()
    found = analyses.directional_sharpness(checkpoint, radii=[0.5], directions=["batch_gradient", "gradient"])
    assert found.sample_count.values.tolist() == [5, 1]
    batch, full = found.sharpness.values[:, 0]
    objective = checkpoint.objective(batch_size=32, shuffle=seed_at(checkpoint, 0))
    rises = []
    for one in objective.batches:
        part = objective.on([one])
        gradient = part.gradient()
        rises.append(float(part(part.theta + 0.5 * gradient / gradient.norm())) - float(part()))
    assert batch == pytest.approx(np.mean(rises), rel=1e-4)
    assert batch > 1.05 * full  # a batch rises faster along its own gradient than all data along theirs
    assert np.isfinite(found.sharpness_stderr.values[0]).all()


@pytest.mark.parametrize("name", analyses.available())
def test_a_part_of_the_data_never_states_an_error_of_zero(name: str, runs: dict[int, Run]) -> None:
    found = analyses.get(name)(runs[0].checkpoint(), examples=60, **QUICK.get(name, {}), **second(name, runs))
    assert found.attrs["objective_examples"] == 60
    assert found.attrs["objective_examples_in_all"] == 150
    for variable, error in found.data_vars.items():
        if not str(variable).endswith("_stderr"):
            continue
        value = found.get(
            str(variable).removesuffix("_stderr"), found.get(f"{str(variable).removesuffix('_stderr')}_mean")
        )
        exact = error.copy(data=np.zeros(error.shape, bool))
        if "other" in error.dims:  # a vector's cosine with itself is one, whatever the data
            exact = exact | (error.gradient == error.other)
        if "gradient" in error.dims:  # the momentum is what it is
            exact = exact | (error.gradient == "momentum")
            if "other" in error.dims:
                exact = exact & (error.gradient == error.other)
        assert value is not None
        assert (exact | (error != 0)).all(), variable


def test_the_mean_over_runs_has_the_error_that_its_standard_error_says() -> None:
    """Along random directions, of twelve runs at one point: six times too small where all share their directions."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1, bias=False).double()
    x = torch.randn(40, 4, dtype=torch.float64) * torch.tensor([3.0, 0.1, 0.1, 0.1], dtype=torch.float64)
    objective = Objective(model, torch.nn.MSELoss(), [(x, torch.zeros(40, 1, dtype=torch.float64))])

    @dataclasses.dataclass
    class Stand:
        experiment: Experiment
        step: int = 10
        attributes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def mean(first: int) -> tuple[float, float]:
        values = [
            float(
                analyses.curvature_along(
                    objective, directions=["random"], seed=seed_at(Stand(EXPERIMENT.replace(seed=first + s)), 0)
                ).curvature[0]
            )
            for s in range(12)
        ]
        return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(12))

    exact = float(torch.trace(2 * x.T @ x / 40)) / 4
    off = [(found - exact) / error for found, error in map(mean, range(0, 240, 12))]
    assert 0.5 < np.sqrt(np.mean(np.square(off))) < 1.6  # Student's t, 11 degrees of freedom: 1.1


# the key of a saved answer


@pytest.mark.parametrize("name", analyses.available())
def test_the_key_of_a_saved_answer_holds_every_option_and_the_contents(
    name: str, runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"split": "train", "examples": None, "dtype": None}
    run = runs[0]
    found = analyses.get(name)
    two = second(name, runs)
    before = saved.analysis_path(run, name, 0, **asked, options=two)
    options = found.options
    for option, parameter in options.items():
        if "Tensor" in str(parameter.annotation) or option in two:
            continue
        explicit = saved.analysis_path(run, name, 0, **asked, options={option: parameter.default, **two})
        assert explicit == before, "asked for by name or left out, it is the same question"

        changed = {**options, option: parameter.replace(default="another default")}
        with monkeypatch.context() as patch:
            patch.setattr(Analysis, "options", changed)
            assert saved.analysis_path(run, name, 0, **asked, options=two) != before, option
            old = saved.analysis_path(run, name, 0, **asked, options={option: parameter.default, **two})
            assert old == before
    other = saved.analysis_path(runs[1], name, 0, **asked, options=two)
    assert other.name != before.name, "other weights"


def test_weights_replaced_in_the_same_file_are_asked_anew(tmp_path: Path) -> None:
    """Train again, with another learning rate, in a folder whose answers were kept."""
    first = train(EXPERIMENT, tmp_path / "run", execution=EACH, progress=False)
    before = saved.analyze(first, "top_eigenvalues", k=1)
    kept = tmp_path / "run" / "analyses"
    kept.rename(tmp_path / "kept")
    for file in sorted((tmp_path / "run").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (tmp_path / "run").rmdir()
    second = train(EXPERIMENT.replace(lr=0.5), tmp_path / "run", execution=EACH, progress=False)
    (tmp_path / "kept").rename(kept)
    after = saved.analyze(second, "top_eigenvalues", k=1)
    assert float(after.eigenvalue[0]) != float(before.eigenvalue[0])
    expected = analyses.top_eigenvalues(second.checkpoint(), k=1)
    assert float(after.eigenvalue[0]) == float(expected.eigenvalue[0])
    again = train(EXPERIMENT.replace(lr=0.5), tmp_path / "elsewhere", execution=EACH, progress=False)
    asked: dict[str, Any] = {"split": "train", "examples": None, "dtype": None, "options": {"k": 1}}
    assert saved.analysis_path(again, "top_eigenvalues", 5, **asked).name == Path(after.attrs["path"]).name

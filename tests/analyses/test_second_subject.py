"""An analysis of two checkpoints: the second by object or path, its contents in the key, its name in the provenance."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import xarray as xr

from analyses import registry, saved
from analyses.registry import Analysis, analysis
from landscape.__main__ import main
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.objective.objective import Objective
from landscape.runs.run import Checkpoint, Run
from landscape.training.training import train

EXPERIMENT = Experiment(data_options={"train_examples": 32}, model_options={"widths": [3]}, batch_size=16, epochs=1)
EACH = Execution(checkpoint_every=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        train(EXPERIMENT.replace(seed=seed), folder / name, execution=EACH, progress=False)
        for seed, name in enumerate("ab")
    ]


@pytest.fixture(autouse=True)
def distance(monkeypatch: pytest.MonkeyPatch) -> Iterator[Analysis]:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    def distance_to(objective: Objective, *, other: Checkpoint, power: float = 1.0) -> xr.Dataset:
        """How far another checkpoint is.

        Args:
            other: The other.
            power: Of the distance.
        """
        there = objective.space.flatten(other.parameters).to(objective.theta)
        return xr.Dataset({"distance": float((there - objective.theta).norm()) ** power})

    return analysis(cost="none", reference="none")(distance_to)


def test_every_way_to_name_the_second_is_the_same_and_said(distance: Analysis, runs: list[Run]) -> None:
    a, b = runs
    last, first = b.checkpoint("last"), b.checkpoint("first")
    expected = float((a.checkpoint().theta - last.theta).norm())
    for other in (last, b, b.path, str(b.path), f"{b.path}@{last.step}", f"{b.path}@last", last.path):
        found = distance(a.checkpoint(), other=other)
        assert float(found.distance) == pytest.approx(expected, rel=1e-6)
        assert found.attrs["other"] == f"b@{last.step}"
        assert json.loads(found.attrs["options"])["other"] == f"b@{last.step}"
        assert Experiment.from_toml(found.attrs["other_experiment"]).seed == 1
    assert distance(a.checkpoint(), other=f"{b.path}@first").attrs["other"] == f"b@{first.step}"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        distance(a.checkpoint(), other="nowhere")
    with pytest.raises(KeyError, match="no checkpoint at step 77"):
        distance(a.checkpoint(), other=f"{b.path}@77")
    with pytest.raises(TypeError, match="expected other, which has no default"):
        distance(a.checkpoint())
    with pytest.raises(TypeError, match="expected a checkpoint, a run, or the path"):
        distance(a.checkpoint(), other=3)


def test_the_key_holds_what_the_second_holds(runs: list[Run], tmp_path: Path) -> None:
    a, b = runs

    def key(other: object) -> str:
        asked = {"split": "train", "examples": None, "dtype": None}
        return saved.analysis_path(a, "distance_to", 0, **asked, options={"other": other}).name

    assert key(b) == key(str(b.path)) == key(b.checkpoint("last"))
    assert len({key(b), key(a), key(f"{b.path}@first")}) == 3
    copied = tmp_path / "elsewhere.h5"
    copied.write_bytes(b.checkpoint("last").path.read_bytes())
    assert key(copied) == key(b), "the same contents at another place"
    model = b.checkpoint("last").model()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    moved = Run.create(tmp_path / "moved", b.experiment)
    moved.save(b.steps[-1], model=model, momentum=None, state={}, metrics={})
    assert key(moved) != key(b)


def test_the_command_line_takes_a_path(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(run.path) for run in runs)
    assert main(["analyze", a, "distance_to", "--other", f"{b}@first"]) == 0
    assert main(["analyze", a, "distance_to", "--other", b]) == 0
    assert len(list(runs[0].path.glob("analyses/distance_to-*"))) == 2
    capsys.readouterr()
    assert main(["analyze", a, "distance_to"]) == 2
    assert "other" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["analyze", a, "distance_to", "--help"])
    shown = capsys.readouterr().out
    assert "--other" in shown
    assert "runs/b@1200" in shown

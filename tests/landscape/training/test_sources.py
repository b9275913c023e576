"""Training on what is no tensor: read by workers or not, resumed in the middle of an epoch, refused with the cure."""

from pathlib import Path
from typing import Any

import generated_images
import pytest
import torch

from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.training.training import Training, train

HERE = generated_images.__name__
CROPPED = [{"name": "crop", "padding": 2}, {"name": "flip"}, {"name": "cutout", "size": 3}]
WAVES = Experiment(
    data=f"{HERE}:waves", data_options={"noise": 0.3}, augment=CROPPED, model=f"{HERE}:net", batch_size=32, epochs=2,
    checkpoint_every=1, optimizer="sam", rho=0.1,
)  # fmt: skip
SOURCES = {
    "generated": WAVES,
    "own source": WAVES.replace(data=f"{HERE}:own_source", data_options={}, augment=[]),
    "resident": WAVES.replace(data=f"{HERE}:tensors", data_options={}),
}


def same(one: Run, other: Run) -> None:
    """To the bit, whatever was measured too."""
    a, b = one.checkpoint("last"), other.checkpoint("last")
    assert torch.equal(a.theta, b.theta)
    assert all(torch.equal(buffer, b.buffers[name]) for name, buffer in a.buffers.items())
    first, second = one.all_series(), other.all_series()
    for name in set(first) - {"seconds"}:
        assert (first[name][1] == second[name][1]).all(), name


class Cut(Exception):
    """The power goes."""


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    take = Training.take_step

    def some(training: Training, batch: Any) -> None:
        if training.step == step:
            raise Cut
        take(training, batch)

    monkeypatch.setattr(Training, "take_step", some)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", SOURCES.values(), ids=SOURCES)
def test_it_resumes_within_an_epoch_and_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Experiment
) -> None:
    """Whole without workers, cut and resumed with two."""
    train(experiment, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        cut_at(patch, 4)
        with pytest.raises(Cut):
            train(experiment.replace(workers=2), tmp_path / "cut", progress=False)
    same(Run.open(tmp_path / "whole"), train(experiment.replace(workers=2), tmp_path / "cut", progress=False))


def test_resident_and_streamed_train_alike(tmp_path: Path) -> None:
    experiment = SOURCES["resident"]
    same(*(train(experiment.replace(resident=how), tmp_path / how, progress=False) for how in ("yes", "no")))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": f"{HERE}:failing", "data_options": {}}, "example 37 of train cannot be fetched: KeyError"),
        ({"data": f"{HERE}:endless", "data_options": {}}, "expected tensors .* got Endless.*Write one"),
        ({"data": f"{HERE}:drifting", "data_options": {}}, "the same batch whenever it is asked for"),
        ({"data": f"{HERE}:ragged", "data_options": {}}, "cannot be stacked"),
        ({"data": f"{HERE}:alone", "data_options": {}}, r"expected \(input, target\), got Tensor"),
        ({"augment": [{"name": "crpo"}]}, "unknown augmentation 'crpo'"),
        ({"augment": [{"name": "crop", "padding": 0}]}, "padding: expected"),
    ],
)
def test_what_cannot_be_trained_on_is_said(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        train(WAVES.replace(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()

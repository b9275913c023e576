"""An edit of experiment.toml falsifies nothing: training refuses it, analyses use and name the checkpoint's own."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from analyses.saved import analyze
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.training.training import train

TRAINED = Experiment(data_options={"train_examples": 60}, model_options={"widths": [4]}, epochs=2, batch_size=30)
EACH = Execution(checkpoint_every=1)
EDITS: dict[str, Any] = {
    "lr": 0.05,
    "rho": 0.2,
    "optimizer": "asam",
    "optimizer_options": {"batch_norm": "normal"},
    "policy": {"name": "every_k", "k": 2},
    "metric": {"name": "per_tensor"},
    "no_decay": ["bias"],
    "base": "nag",
    "momentum": 0.5,
    "weight_decay": 0.0,
    "model_options": {"widths": [5]},
    "data_options": {"train_examples": 61},
    "label_noise": 0.2,
    "batch_size": 20,
    "epochs": 3,
    "schedule": "constant",
    "clip_gradient": 1.0,
    "precision": "float64",
    "seed": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TRAINED, tmp_path_factory.mktemp("runs") / "run", execution=EACH, progress=False).path


def edited(run: Path, folder: Path, experiment: Experiment, *, dropped: bool) -> Path:
    """A copy of `run` whose experiment.toml says something else; without its last checkpoint if asked."""
    (folder / "checkpoints").mkdir(parents=True)
    for file in (run / "checkpoints").iterdir():
        (folder / "checkpoints" / file.name).write_bytes(file.read_bytes())
    (folder / "experiment.toml").write_text(experiment.to_toml())
    if dropped:
        Run.open(folder).checkpoint_path(Run.open(folder).steps[-1]).unlink()
    return folder


@pytest.mark.parametrize("dropped", [False, True], ids=["finished", "to be continued"])
@pytest.mark.parametrize("field", EDITS)
def test_training_refuses_an_edited_experiment_and_names_the_field(
    tmp_path: Path, trained: Path, field: str, dropped: bool
) -> None:
    claimed = TRAINED.replace(**{field: EDITS[field]})
    folder = edited(trained, tmp_path / "run", claimed, dropped=dropped)
    files = {file: file.read_bytes() for file in folder.rglob("*.h5")}
    with pytest.raises(ValueError, match=rf"another experiment than experiment\.toml .*\b{field} = .* in step-0000"):
        train(claimed, folder, execution=EACH, progress=False)
    assert {file: file.read_bytes() for file in folder.rglob("*.h5")} == files


def test_after_the_edit_is_undone_it_continues(tmp_path: Path, trained: Path) -> None:
    folder = edited(trained, tmp_path / "run", TRAINED.replace(lr=0.05), dropped=True)
    (folder / "experiment.toml").write_text("# of last week\n" + TRAINED.to_toml())
    assert train(TRAINED, folder, execution=EACH, progress=False).finished


def test_an_analysis_is_of_the_experiment_in_the_checkpoint_and_says_so(tmp_path: Path, trained: Path) -> None:
    claimed = TRAINED.replace(label_noise=0.5, label_smoothing=0.3)
    folder = edited(trained, tmp_path / "run", claimed, dropped=False)
    with pytest.warns(UserWarning, match=r"label_noise = 0\.0 in step-00000004\.h5, 0\.5 in experiment\.toml"):
        found = analyze(folder, "psf", batches=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = analyze(edited(trained, tmp_path / "honest", TRAINED, dropped=False), "psf", batches=1)
    assert Experiment.from_toml(found.attrs["experiment"]) == TRAINED
    assert found.drop_attrs(deep=False).identical(expected.drop_attrs(deep=False))


@pytest.mark.parametrize("options", [{"widths": (4, 3)}, {"widths": [4], "dropout": 0}, {}], ids=str)
def test_an_experiment_is_what_its_file_says(tmp_path: Path, options: dict[str, Any]) -> None:
    """A tuple comes back from TOML as a list, and is the same experiment."""
    experiment = TRAINED.replace(model_options=options)
    assert Experiment.from_toml(experiment.to_toml()) == experiment
    assert Run.create(tmp_path, experiment).experiment == experiment

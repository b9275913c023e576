"""Code that only a file names is not run; what the user typed, trained with or allowed is."""

import os
import subprocess
import sys

import pytest

from landscape import imports
from landscape.__main__ import main
from landscape.experiment import IMPORTED, Experiment
from landscape.runs.archive import export_archive, import_archive
from landscape.runs.run import Run
from landscape.training.training import Training, train

SHORT = ["--epochs", "1", "--data_options.train_examples", "16"]
OWN = """
from torch import nn, optim
from landscape.tasks.classification import Classification
from optimizers import SAM

open("ran.txt", "a").write("imported")

def net(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def images(train_examples=16):
    from landscape.data.digits import digits
    return digits(train_examples)

def base(params, lr):
    return optim.SGD(params, lr=lr)

class Mine(SAM):
    pass

class Meaning(Classification):
    pass
"""
NAMES = {
    "model": "somebodys_code:net",
    "data": "somebodys_code:images",
    "task": "somebodys_code:Meaning",
    "optimizer": "somebodys_code:Mine",
    "base": "somebodys_code:base",
}
ONLY_TRAIN = ("optimizer", "base")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A new user: nothing allowed, nothing remembered, and a module on the path that tells when it is imported."""
    (tmp_path / "somebodys_code.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(imports.VARIABLE, raising=False)
    monkeypatch.setattr(imports, "_allowed", set())
    monkeypatch.delitem(sys.modules, "somebodys_code", raising=False)
    return tmp_path


def recipe(folder, field):
    with imports.from_file():
        text = Experiment(epochs=1, **{field: NAMES[field]}).to_toml()
    (folder / "theirs.toml").write_text(text)
    return str(folder / "theirs.toml")


def refused(arguments, field, folder, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"{NAMES[field]!r}: a file asks to run this code" in error
    assert f"--allow {NAMES[field]}" in error
    assert len(error.splitlines()) == 1
    assert not (folder / "ran.txt").exists()


def test_the_fields_that_name_code_are_all_here():
    assert set(NAMES) == set(IMPORTED)


@pytest.mark.parametrize("field", IMPORTED)
def test_a_recipe_runs_no_code_unless_allowed(elsewhere, field, capsys):
    theirs = recipe(elsewhere, field)
    refused(["train", "run", "-c", theirs], field, elsewhere, capsys)
    assert not (elsewhere / "run").exists()
    assert main(["train", "run", "-c", theirs, "--allow", NAMES[field]]) == 0
    os.environ.pop(imports.VARIABLE)
    assert (elsewhere / "ran.txt").exists()


@pytest.mark.parametrize("field", IMPORTED)
def test_somebody_elses_run_runs_no_code_unless_allowed(elsewhere, field, capsys, monkeypatch):
    assert main(["train", "made", *SHORT, f"--{field}", NAMES[field]]) == 0  # somebody else typed it
    export_archive(Run.open("made"), "run.h5")
    for path in (elsewhere / "ran.txt", elsewhere / "state/landscape-toolkit/imports.txt"):
        path.unlink()
    imports._allowed.clear()
    sys.modules.pop("somebodys_code")
    run = import_archive("run.h5", "run")
    checkpoint = run.checkpoint("last")
    assert main(["info", "run"]) == main(["verify", "run"]) == main(["export", "run", "w.pt"]) == 0
    capsys.readouterr()
    refused(["analyze", "run", "psf", "--batches", "1"], field, elsewhere, capsys) if field not in ONLY_TRAIN else None
    refused(["train", "again", "-c", "run/experiment.toml"], field, elsewhere, capsys)
    with pytest.raises(PermissionError, match=f"--allow {NAMES[field]}"):
        Training(run.experiment.replace(lr=0.2))  # what is taken over from a file stays a file's
    if field not in (*ONLY_TRAIN, "task"):  # which objectives need, networks do not
        with pytest.raises(PermissionError, match=f"--allow {NAMES[field]}"):
            checkpoint.model()
    assert not (elsewhere / "ran.txt").exists()
    monkeypatch.setenv(imports.VARIABLE, f"other:thing,{NAMES[field]}")
    checkpoint.model()
    Training(run.experiment)


@pytest.mark.processes
def test_ones_own_runs_need_nothing(elsewhere):
    run = train(Experiment(epochs=1, **NAMES), "run")  # typed in Python
    run.checkpoint("last").model()
    ask = "from landscape import Run; Run.open('run').checkpoint('last').model()"
    path = f"{elsewhere}:{os.environ['PYTHONPATH']}" if "PYTHONPATH" in os.environ else str(elsewhere)
    ran = subprocess.run(
        [sys.executable, "-c", ask], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr  # another process of the same user


def test_replacing_a_name_is_typing_it(elsewhere):
    with imports.from_file():
        experiment = Experiment()
    Training(experiment.replace(model=NAMES["model"]))


def test_a_home_that_cannot_be_written_is_no_error(elsewhere, monkeypatch):
    (elsewhere / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(elsewhere / "file"))
    imports.remember(["a:b"])
    imports.require("model", "a:b")

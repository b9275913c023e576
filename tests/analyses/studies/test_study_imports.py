"""A study that names somebody's code: refused before anything runs, carried out where the user allows it."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from analyses.studies import jobs
from analyses.studies.carrying_out import complete
from analyses.studies.claims import Claims
from landscape import imports
from landscape.__main__ import main
from landscape.experiment import IMPORTED

CODE = """
from pathlib import Path
from torch import nn, optim
Path("ran.txt").touch()
def net(input_shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
def images():
    from landscape.data.digits import digits
    return digits(16)
def base(params, lr): return optim.SGD(params, lr=lr)
from optimizers import SAM
class Mine(SAM): pass
from landscape.tasks.classification import Classification as Labels
"""
NAMES = {
    "model": "somebodys_study:net",
    "data": "somebodys_study:images",
    "optimizer": "somebodys_study:Mine",
    "base": "somebodys_study:base",
    "task": "somebodys_study:Labels",
}
STUDY = """
title = "Theirs"
seeds = [0]
[experiment]
epochs = 1
[arms.theirs]
{field} = "{name}"
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new user: nothing allowed, nothing remembered, and a module on the path that tells when it is imported."""
    (tmp_path / "somebodys_study.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv(imports.VARIABLE, "")
    monkeypatch.setattr(imports, "_allowed", set())
    monkeypatch.delitem(sys.modules, "somebodys_study", raising=False)
    return tmp_path


def in_this_process(
    work: Callable[..., object], tasks: Mapping[jobs.Job, tuple], *, at_once: int, after: object
) -> Iterator[tuple[jobs.Job, None]]:
    for key, task in tasks.items():
        yield key, work(*task)


@pytest.mark.parametrize("field", IMPORTED)
def test_a_study_runs_no_code_unless_allowed(field: str, elsewhere: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "in_processes", in_this_process)
    Path("theirs.toml").write_text(STUDY.format(field=field, name=NAMES[field]))
    arguments = ["reproduce", "theirs.toml", "--directory", "runs"]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{NAMES[field]!r}: a file asks to run this code" in line
    assert f"--allow {NAMES[field]}" in line
    assert not Path("runs").exists()
    assert not Path("ran.txt").exists()
    assert main([*arguments, "--allow", NAMES[field]]) == 0
    assert Path("ran.txt").exists()
    assert "test accuracy" in Path("runs/report.md").read_text()


@pytest.mark.processes
def test_what_is_allowed_in_python_is_allowed_in_its_workers(elsewhere: Path) -> None:
    Path("theirs.toml").write_text(STUDY.format(field="model", name=NAMES["model"]))
    claims = Claims.read(Path("theirs.toml"))
    with pytest.raises(PermissionError, match="--allow"):
        complete(claims, Path("runs"), jobs=1)
    imports.allow(NAMES["model"])
    assert complete(claims, Path("runs"), jobs=1) == {}
    assert NAMES["model"] not in os.environ[imports.VARIABLE]

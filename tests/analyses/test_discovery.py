"""An analysis is found where it lies: dropped into a wing, or in a package of one's own that one has named oneself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import analyses
from analyses import discovery, registry
from landscape import imports
from landscape.__main__ import main

FILE = '''
import xarray as xr
from analyses.registry import analysis
from landscape.objective.objective import Objective

@analysis(cost="1 evaluation", reference="none")
def {name}(objective: Objective, *, times: float = 2.0) -> xr.Dataset:
    """The loss, so many times.

    Args:
        times: How many.
    """
    return xr.Dataset({{"loss": times * float(objective())}})

@{name}.figure
def plot(dataset, ax=None):
    from matplotlib import pyplot
    return pyplot.subplots()[1] if ax is None else ax

plain = 3
'''


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What these tests register is forgotten after each."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(imports, "_allowed", set())
    monkeypatch.setattr(discovery, "_seen", set(discovery._seen))
    known = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(known)


@pytest.fixture
def wing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test that Python takes for more of analyses/sharpness."""
    import analyses.sharpness

    root = tmp_path / "analyses"
    (root / "sharpness").mkdir(parents=True)
    (root / "sharpness" / "__init__.py").touch()
    monkeypatch.setattr(discovery, "__file__", str(root / "discovery.py"))
    monkeypatch.setattr(analyses.sharpness, "__path__", [*analyses.sharpness.__path__, str(root / "sharpness")])
    return root / "sharpness"


def test_a_file_dropped_into_a_wing_is_found(wing: Path) -> None:
    (wing / "dropped.py").write_text(FILE.format(name="dropped_in"))
    assert "dropped_in" in analyses.available()
    assert analyses.get("dropped_in").origin == "dropped_in"


def test_a_file_that_cannot_be_imported_is_warned_of_once_and_all_others_found(wing: Path) -> None:
    (wing / "broken.py").write_text("import nothing_of_this_name")
    (wing / "whole.py").write_text(FILE.format(name="whole_one"))
    with pytest.warns(UserWarning, match=r"analyses\.sharpness\.broken: its analyses are left out.*nothing_of_this"):
        assert "whole_one" in analyses.available()
    analyses.available()


def test_every_wing_is_walked_without_the_front_door() -> None:
    discovery._seen.clear()
    discovery.import_wings()
    assert {name.split(".")[1] for name in discovery._seen} >= {"curvature", "gradients", "sharpness"}
    assert {analyses.get(n).function.__module__ for n in analyses.available()} <= discovery._seen


def test_anybodys_function_is_an_analysis_where_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs.py").write_text(FILE.format(name="own_question"))
    monkeypatch.syspath_prepend(str(tmp_path))
    run, few = tmp_path / "run", ["--data_options.train_examples", "16", "--model_options", '{"widths": [3]}']
    assert main(["train", str(run), *few, "--epochs", "1"]) == 0
    assert main(["analyze", str(run), "theirs:own_question", "--times", "3"]) == 0
    assert "loss" in capsys.readouterr().out
    (file,) = (run / "analyses").glob("own_question-*.h5")
    assert analyses.get("theirs:own_question").origin == "theirs:own_question"
    imports._allowed.clear()  # as another process has it
    assert main(["figure", str(file), "--output", str(tmp_path)]) == 2
    assert "--allow theirs:own_question" in capsys.readouterr().err
    monkeypatch.setenv(imports.VARIABLE, "")  # --allow sets it, and this puts it back
    assert main(["figure", str(file), "--output", str(tmp_path), "--allow", "theirs:own_question"]) == 0
    imports._allowed.clear()
    monkeypatch.setenv(imports.VARIABLE, "")
    with imports.from_file(), pytest.raises(PermissionError, match="a file asks to run this code"):
        analyses.get("theirs:own_question")
    with pytest.raises(ValueError, match="expected a function under @analysis, got int"):
        analyses.get("theirs:plain")
    with pytest.raises(ValueError, match="expected an importable"):
        analyses.get("theirs:nothing")

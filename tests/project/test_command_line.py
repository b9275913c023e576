"""The command line: every option comes from a signature, every mistake is answered in one line, nothing is lost."""

from pathlib import Path

import pytest

import analyses
from landscape.__main__ import COMMANDS, main
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run

SHORT = ["--data_options.train_examples", "100", "--model_options", '{"widths": [6]}', "--epochs", "1"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_complete_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    assert f"landscape {command}" in capsys.readouterr().out


def test_the_options_of_train_are_the_fields_of_an_experiment_and_an_execution(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for name in (*Experiment.names(), *Execution.names()):
        assert f"--{name}" in text


def test_the_whole_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", str(run), *SHORT, "--optimizer", "msam", "--rho", "0.5"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert main(["analyze", str(run), "psf", "--steps", "all", "--rho", "0.1", "--batches", "1"]) == 0
    assert "l2_psf" in capsys.readouterr().out
    files = sorted((run / "analyses").glob("psf-*.h5"))
    assert len(files) == 2
    assert main(["figure", str(files[0]), "--output", str(tmp_path / "drawn")]) == 0
    assert {path.suffix for path in (tmp_path / "drawn").iterdir()} == {".png", ".pdf"}
    capsys.readouterr()
    for path in (run, run / "checkpoints" / "step-00000002.h5", files[0]):
        assert main(["info", str(path)]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 5
    assert main(["list", "optimizers"]) == 0
    assert "`msam`" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("analysed") / "run"
    assert main(["train", str(path), *SHORT, "--optimizer", "msam", "--rho", "0.5"]) == 0
    return path


@pytest.mark.parametrize("name", analyses.available())
def test_every_analysis_can_be_asked_from_the_command_line(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {
        "spectral_density": ["--nodes", "8"],
        "m_sharpness": ["--m", "[2]"],
        "loss_surface": ["--points", "3"],
        "interpolation_barrier": ["--other", f"{run}@first"],
        "friendliness": ["--examples", "130"],
    }
    assert main(["analyze", "--split", "test", "--examples", "60", str(run), name, *few.get(name, [])]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert f"{name}-00000002-" in printed[0]
    assert len(printed) > 1 or name in ("spectral_density", "loss_surface", "diagonal")


def test_a_recipe_and_options_override_in_order(tmp_path: Path) -> None:
    assert main(["train", str(tmp_path / "run"), "-c", "digits-sam", *SHORT, "--rho", "0.3"]) == 0
    experiment = Run.open(tmp_path / "run").experiment
    assert (experiment.optimizer, experiment.rho, experiment.epochs) == ("sam", 0.3, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "unknown command 'trian': expected one of train"),
        (["train", "RUN", "--lrr", "1"], "--lrr"),
        (["train", "RUN", "--epoch", "1"], "--epoch"),  # no abbreviations
        (["train", "RUN", "--lr", "fast"], "lr"),
        (["train", "RUN", "--lr", "fast"], "float"),
        (["train", "RUN", "--optimizer", "asm", *SHORT], "asm"),
        (["train", "RUN", "--optimizer", "asm", *SHORT], "msam"),
        (["train", "RUN", "--optimizer", "sam", "--rho", "-0.1", *SHORT], "rho"),
        (["train", "RUN", "-c", "nothing"], "no recipe 'nothing'"),
        (["analyze", "RUN", "psff"], "unknown analysis 'psff': expected one of"),
        (["analyze", "RUN", "psf", "--rhoo", "1"], "--rhoo"),
        (["analyze", "NOWHERE", "psf"], "NOWHERE"),
        (["analyze", "RUN", "psf", "--steps", "soon"], "expected last, first, all or numbers"),
        (["analyze", "RUN", "psf", "--steps", "7"], "no checkpoint at step 7"),
        (["info", "NOWHERE"], "found nothing there"),
        (["figure", "NOWHERE.h5"], "NOWHERE.h5"),
        (["reproduce", "dem"], "no recipe 'dem': expected a TOML file or one of demo"),
    ],
)
def test_mistakes_are_answered(
    tmp_path_factory: pytest.TempPathFactory, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path_factory.mktemp("made") / "run"
    if arguments[0] != "train":
        assert main(["train", str(run), *SHORT]) == 0
    capsys.readouterr()
    assert main([str(run) if argument == "RUN" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_another_experiment_in_the_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", run, *SHORT]) == 0
    assert main(["train", run, *SHORT, "--lr", "0.2"]) == 2
    assert "lr = 0.1 there, 0.2 here" in capsys.readouterr().err
    assert Run.open(run).experiment.lr == 0.1
    assert main(["train", run, *SHORT]) == 0  # finished: recognised

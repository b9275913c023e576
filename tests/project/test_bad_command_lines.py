"""Every option of everything that can be named, given wrongly: one clear line, exit code 2, nothing written.

The table is made from the signatures, so that an option added tomorrow is in it.
"""

import inspect
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import torch

import analyses
import optimizers
from landscape import data, models
from landscape.__main__ import main
from landscape.runs.retention import Retention
from landscape.tasks import build
from landscape.training import bases
from landscape.training.evaluation import evaluated
from optimizers.core.registry import _METHODS
from optimizers.ground.signatures import Range, fits, options_of

LIKE = ["--data_options.train_examples", "16", "--model_options", '{"widths": [3]}', "--epochs", "1"]
WRONG = ("x", [], {}, [[]], True, 2.5, float("nan"), float("inf"), -1, -0.5, 0, 10**23, None)
GIVEN = {"params", "lr", "momentum", "weight_decay", "input_shape", "classes", "base", "objective"}


def limits(hint: Any) -> list[Range]:
    own = [limit for limit in getattr(hint, "__metadata__", ()) if isinstance(limit, Range)]
    return own + list(itertools.chain.from_iterable(map(limits, get_args(hint) if get_origin(hint) else ())))


def wrong_values(hint: Any) -> list[Any]:
    """A few values that the annotation excludes: of other types, and beyond each end of its ranges."""
    beyond = [end for limit in limits(hint) for end in (limit.low - 1, limit.high + 1)]
    return [value for value in (*WRONG, *beyond) if not fits(hint, value)]


def bad_options(kind: str) -> list[tuple[str, str, Any]]:
    """(name, option, wrong value) over everything of a kind, and a misspelt option of each."""
    functions = {
        "optimizer": {name: _METHODS[name][0] for name in optimizers.available()},
        "model": models.models.factories,
        "data": data.datasets.factories,
        "base": bases.bases.factories,
        "analysis": {name: analyses.get(name).function for name in analyses.available()},
    }[kind]
    found = []
    for name, function in sorted(functions.items()):
        for option, parameter in options_of(function).items():
            if option not in GIVEN and parameter.annotation is not Any:
                found += [(name, option, value) for value in wrong_values(parameter.annotation)]
                found.append((name, option + option[-1], 1))
    return found


def answered(arguments: list[str], capsys: pytest.CaptureFixture[str], *says: str) -> None:
    __tracebackhide__ = True
    assert main(arguments) == 2, arguments
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("landscape ")]
    assert len(lines) == 1, arguments
    assert len(lines[0]) < 2000, arguments
    for part in says:
        assert part in lines[0], (arguments, lines[0])


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["optimizer", "model", "data", "base"])
def test_wrong_options_of_everything_that_trains(kind: str) -> None:
    """Without the command line, which only hands the options on: each is refused by name."""
    model = torch.nn.Linear(2, 2)
    given = {"params": model.parameters(), "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    make = {
        "optimizer": lambda name, options: optimizers.create(name, torch.optim.SGD(model.parameters()), **options),
        "model": lambda name, options: models.models.create(name, {"input_shape": (1, 8, 8), "classes": 10}, options),
        "data": lambda name, options: data.datasets.create(name, {}, options),
        "base": lambda name, options: bases.bases.create(name, given, options),
    }[kind]
    table = bad_options(kind)
    assert len(table) > {"optimizer": 500, "model": 20, "data": 5, "base": 50}[kind]
    for name, option, value in table:
        with pytest.raises((TypeError, ValueError)) as refusal:  # noqa: PT012
            make(name, {option: value})
            pytest.fail(f"{kind} {name}: {option} = {value!r} was taken")
        assert option in str(refusal.value), (name, option, value, str(refusal.value))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["optimizer", "model", "data", "base"])
def test_some_of_them_on_the_command_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = [case for case in bad_options(kind) if case[2] is not None]
    for name, option, value in table[:: len(table) // 8]:
        options = ["--epochs", "1", f"--{kind}", name, f"--{kind}_options", json.dumps({option: value})]
        answered(["train", str(tmp_path / "run"), *options], capsys, option)
    assert everything(tmp_path) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(path), *LIKE, "--optimizer", "msam", "--rho", "0.5"]) == 0
    return path


def test_wrong_options_of_every_analysis(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(run)
    table = [case for case in bad_options("analysis") if case[1] not in ("momentum", "gradient_average", "other")]
    assert len(table) > 300
    from landscape.runs.run import Run

    checkpoint = Run.open(run).checkpoint("last")
    for name, option, value in table:
        with pytest.raises((TypeError, ValueError), match=option):  # noqa: PT012
            second = {"other": checkpoint} if "other" in analyses.get(name).options else {}
            analyses.get(name)(checkpoint, **second, **{option: value})
            pytest.fail(f"{name}: {option} = {value!r} was taken")
    for name, option, value in table[:: len(table) // 8]:
        answered(["analyze", str(run), name, f"--{option}={json.dumps(value)}"], capsys, option)
    assert everything(run) == before


W = "--optimizer_options"
NAMED = [
    (["train", "NEW", "--device", "cpu:7"], "expected cpu, which has no number, got 'cpu:7'"),
    (["train", "NEW", "--device", "gpu"], "expected cpu, cuda, cuda:1 or mps, got 'gpu'"),
    (["train", "NEW", "--device", "cuda:99"], "cuda:99"),
    (["train", "NEW", "--device", "meta"], "meta"),
    (["train", ""], "expected the name of a folder for the run, got ''"),
    (["train", "NEW", "--keep.best", "test_acc"], "no metric is called test_acc; expected among train_loss"),
    (["train", "NEW", "--keep.best", "test_acc"], "did you mean 'test_accuracy'?"),
    (["train", "NEW", "--keep.best", "loss"], "no metric is called loss"),
    (["train", "NEW", "--keep.last", "-1"], "last: expected a whole number, 0 (off) or more, got -1"),
    (["train", "NEW", "--keep.every", "2.5"], "every"),
    (["train", "NEW", "--keep.best_is", "largest"], "best_is"),
    (["train", "NEW", "--probe_rho_sam", "-1"], "probe_rho_sam: expected a number at least 0"),
    (["train", "NEW", "--probe_rho_msam", "-1"], "probe_rho_msam: expected a number at least 0"),
    (
        ["train", "NEW", "--optimizer", "asam", W, '{"eta": -1}'],
        "asam: eta: expected a finite number at least 0, got -1",
    ),
    (["train", "NEW", "--optimizer", "vsam", W, '{"warmup": -1}'], "vsam: warmup: expected a whole number at least 0"),
    (
        ["train", "NEW", "--optimizer", "looksam", W, '{"k": 2.5}'],
        "looksam: k: expected a whole number at least 1, got 2.5",
    ),
    (["train", "NEW", "--optimizer", "sams"], "did you mean 'sam'?"),
    (["train", "NEW", "--optimizer", "sam", "--rho", "0.2", W, '{"rho": 0.1}'], "rho: expected once, got 0.2 and 0.1"),
    (["train", "NEW", "--base_options", '{"lr": 3}'], "lr is an option of the experiment itself"),
    (
        ["train", "NEW", "--model_options", '{"widths": [0]}'],
        "widths: expected a list, each entry a whole number at least 1",
    ),
    (["train", "NEW", "--model_options", '{"batch_norm": "maybe"}'], "batch_norm: expected true or false, got 'maybe'"),
    (["train", "NEW", "--model", "convnet", "--model_options", '{"channels": [4, 4, 4, 4]}'], "halves the image"),
    (["analyze", "RUN", "psf", "--rho", "-1"], "rho: expected a finite number more than 0, got -1"),
    (["analyze", "RUN", "gradient_similarity", "--rho_sam", "-1"], "rho_sam: expected a finite number at least 0"),
    (["analyze", "RUN", "m_sharpness", "--m", "[]"], "m: expected a list"),
    (["analyze", "RUN", "psf", "--device", "cpu:7"], "cpu:7"),
    (["analyze", "RUN", "psf", "--device", "cuda:99"], "cuda:99"),
    (["analyze", "RUN", "psf", "--examples", "0"], "examples: expected 1 to 16"),
    (["benchmark", "hessian", "RUN", "--repeats", "0"], "repeats: expected a whole number at least 1"),
    (["benchmark", "hessian", "RUN", "--k", "0"], "k: expected a whole number at least 1"),
    (["benchmark", "hessian", "RUN", "--tol", "-1"], "tol: expected a finite number more than 0"),
    (["benchmark", "hessian", "RUN", "--device", "cpu:7"], "cpu:7"),
    (["export", "RUN", "NEW.h5", "--step", "77"], "an archive holds all checkpoints"),
    (["export", "RUN", "NEW.pt", "--step", "77"], "no checkpoint at step 77"),
    (["import", "RUN.h5", "NEW", "--lr", "7"], "an archive brings its own experiment; leave out --lr"),
    (["import", "RUN.h5", ""], "expected the name of a folder, got ''"),
    (["figure", "RUN.h5", "--output", ""], "expected the name of a folder, got ''"),
    (["figure", "RUN.h5"], "RUN.h5"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), NAMED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_command_lines_that_were_accepted_once(
    arguments: list[str],
    says: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    archive = run.with_suffix(".h5")
    if not archive.exists():
        assert main(["export", str(run), str(archive)]) == 0
    before = everything(run.parent), everything(tmp_path)
    named = {"RUN": str(run), "RUN.h5": str(archive)}
    answered(
        [named.get(a, str(tmp_path / a) if a.startswith("NEW") else a) for a in arguments],
        capsys,
        says.replace("RUN", str(run)),
    )
    assert (everything(run.parent), everything(tmp_path)) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
@pytest.mark.parametrize("command", ["train", "analyze"])
def test_cuda_where_there_is_none_is_one_line(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(tmp_path / "new")] if command == "train" else ["analyze", str(run), "psf"]
    answered([*arguments, "--device", "cuda"], capsys, "no cuda device, got 'cuda'; cpu is always there")
    assert everything(tmp_path) == []


@pytest.mark.processes
def test_a_process_says_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "landscape", "train", str(tmp_path / "run"), "--keep.best", "test_acc"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (2, "", 1)
    assert everything(tmp_path) == []


def test_the_metrics_that_decide_which_is_best_are_those_measured_at_checkpoints(run: Path) -> None:
    from landscape.runs.run import Run

    opened = Run.open(run)
    last = opened.steps[-1]
    measured = {name for name, (steps, _) in opened.all_series().items() if len(steps) and steps[-1] == last}
    assert measured == set(evaluated(build(opened.experiment)))
    assert Retention(best="nowhere").kept([0, 1, 2], lambda metric, step: None) == {0, 1, 2}


def test_python_is_answered_as_the_command_line_is() -> None:
    base = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(ValueError, match="asam: eta: expected a finite number at least 0, got -1"):
        optimizers.ASAM(base, eta=-1)
    assert list(inspect.signature(optimizers.ASAM).parameters)[:3] == ["base", "rho", "eta"]
    assert fits(Annotated[float, Range(0)], torch.tensor(0.5))

"""Anybody's class, by its name `package.module:Class`: made, described, trained from the command line and continued."""

from pathlib import Path

import pytest
import torch
from optimizer_problems import BASES, LogisticBatches, Recursion, unit

import optimizers
from landscape.__main__ import main
from landscape.runs.run import Run

NAME = "outside.averaged_ascent:AveragedAscent"
SMALL = [
    "--data_options.train_examples",
    "64",
    "--model_options",
    '{"widths": [8]}',
    "--optimizer_options.lmbda",
    "0.6",
]


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("base", BASES)
def test_it_is_its_recursion(base):
    problem, recursion = LogisticBatches(), Recursion(base)
    model = problem.model()
    optimizer = optimizers.create(NAME, BASES[base](list(model.parameters())), rho=0.1, lmbda=0.6)
    w, mean = problem.start.clone(), 0.0
    for batch in range(40):
        optimizer.step(problem.closure(model, batch))
        mean = 0.6 * mean + 0.4 * unit(problem.gradient(w, batch))
        w = recursion.step(w, problem.gradient(w + 0.1 * unit(mean), batch))
    torch.testing.assert_close(model.vector.detach(), w, rtol=0, atol=1e-10)


def test_it_is_described_by_its_class_and_stays_out_of_the_table():
    info = optimizers.describe(NAME)
    assert (info.name, info.summary) == (NAME, "Climb along the running mean of unit gradients.")
    assert info.defaults == {"rho": 0.05, "lmbda": 0.9}
    assert 10 in info.gradients(5)
    assert NAME not in optimizers.available()


def test_a_class_that_its_module_registers_is_that_method():
    assert optimizers.describe("optimizers.fsam:FSAM") is optimizers.describe("fsam")


def test_the_command_line_trains_it_and_again_from_its_recipe_to_the_bit():
    assert main(["train", "whole", "--optimizer", NAME, *SMALL, "--epochs", "2", "--checkpoint_every", "1"]) == 0
    assert main(["train", "sam", "--optimizer", "sam", *SMALL[:-2], "--epochs", "2"]) == 0
    whole, sam = (Run.open(name) for name in ("whole", "sam"))
    assert whole.experiment.optimizer == NAME
    assert not torch.equal(*(weights_of(run) for run in (whole, sam)))
    assert main(["train", "again", "-c", "whole/experiment.toml"]) == 0  # trained with it before: no --allow
    assert torch.equal(*(weights_of(run) for run in (whole, Run.open("again"))))


def weights_of(run):
    return torch.cat([p.detach().flatten() for p in run.checkpoint("last").model().parameters()])


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("outside.averaged_ascent:Averaged", [], "expected a subclass of optimizers.SharpnessAware, got <class"),
        ("outside.averaged_ascent:Missing", [], "expected an importable package.module:Class"),
        ("outside.nowhere:Class", [], "Is its folder on PYTHONPATH?"),
        (NAME, ["--optimizer_options.lmbda", "1.5"], "lmbda: expected a finite number in [0, 1), got 1.5"),
        (NAME, ["--optimizer_options.lambda", "0.5"], "unknown hyperparameter lambda; expected among"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_no_run(name, options, says, capsys):
    assert main(["train", "run", "--optimizer", name, *SMALL[:-2], *options, "--epochs", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not Path("run").exists()

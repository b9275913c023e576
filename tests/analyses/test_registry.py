"""An analysis says how it was made, whoever asks it, and refuses what it does not know."""

import inspect
import json
import re

import pytest
import torch
import xarray as xr

import analyses
from analyses.registry import analysis
from analyses.second_subject import subjects_of, vectors_of
from landscape import Objective
from landscape.__main__ import main


def objective() -> Objective:
    model = torch.nn.Linear(3, 2)
    return Objective(model, torch.nn.CrossEntropyLoss(), [(torch.randn(8, 3), torch.randint(2, (8,)))] * 2)


def test_the_answer_says_how_it_was_made() -> None:
    attributes = analyses.psf(objective(), rho=0.2, batches=1).attrs
    assert attributes["analysis"] == "psf"
    assert json.loads(attributes["options"]) == {"rho": 0.2, "batches": 1, "seed": 0}
    assert attributes["objective_examples"] == 16
    assert attributes["objective_mode"] == "eval"
    assert attributes["gradient_evaluations"] == 1.0  # two gradients of one of two batches
    assert attributes["hessian_products"] == 0.5


def test_options_may_be_given_in_order() -> None:
    assert analyses.top_eigenvalues(objective(), 2).sizes["k"] == 2
    with pytest.raises(TypeError, match="once"):
        analyses.top_eigenvalues(objective(), 2, k=3)


def test_unknown_options_and_names_are_answered() -> None:
    with pytest.raises(TypeError, match=r"psf: expected options among rho, batches, seed; got rhoo"):
        analyses.psf(objective(), rhoo=1)
    with pytest.raises(ValueError, match=r"unknown analysis 'pfs': expected one of .*psf"):
        analyses.get("pfs")
    with pytest.raises(TypeError, match="which already has its data"):
        analyses.psf(objective(), split="test")


def test_a_name_is_registered_once_and_keeps_off_the_options_of_all() -> None:
    def psf(objective: Objective) -> xr.Dataset:
        return xr.Dataset()

    def new(objective: Objective, *, steps: int = 1) -> xr.Dataset:
        return xr.Dataset()

    for function, says in ((psf, "exists already"), (new, "steps chooses checkpoints")):
        with pytest.raises(ValueError, match=says):
            analysis(cost="", reference="")(function)
    assert "new" not in analyses.available()


@pytest.mark.parametrize("name", analyses.available())
def test_every_analysis_has_a_summary_a_cost_a_reference_and_a_picture(name: str) -> None:
    found = analyses.get(name)
    assert found.summary
    assert found.cost
    assert found.reference
    assert found.plot is not None


@pytest.mark.parametrize("name", analyses.available())
def test_every_option_says_what_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the docstring, and in `landscape analyze RUN NAME --help`."""
    found = analyses.get(name)
    described = inspect.getdoc(found.function).split("Args:\n")[-1]
    for option in found.options:
        assert re.search(rf"^    {option}: \w.*", described, re.MULTILINE), option
    with pytest.raises(SystemExit, match="0"):
        main(["analyze", "a run", name, "--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for option in set(found.options) - {*vectors_of(found.options), *subjects_of(found.options)}:
        text = re.search(rf"^    {option}: (.*)", described, re.MULTILINE)[1]
        assert re.search(rf"--{option} \S+ .*?{re.escape(text)}", shown), option

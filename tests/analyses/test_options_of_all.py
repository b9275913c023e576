"""Law of every analysis of a checkpoint: a drawn part of the data, parts of a batch and autocast can be asked of it."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import analyses
from analyses import registry, saved
from landscape.__main__ import main
from landscape.experiment import Experiment
from landscape.runs.run import Checkpoint, Run
from landscape.training.training import train

COMMON = [
    name for name, p in inspect.signature(registry.Analysis.__call__).parameters.items() if p.kind is p.KEYWORD_ONLY
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    experiment = Experiment(data_options={"train_examples": 64}, model_options={"widths": [4]}, batch_size=16, epochs=1)
    return train(experiment, tmp_path_factory.mktemp("runs") / "run", progress=False)


def test_the_names_are_reserved_and_reach_the_objective_and_the_saved_answer() -> None:
    assert set(COMMON) <= registry.RESERVED
    assert set(COMMON) <= set(inspect.signature(saved.analyze).parameters)
    assert set(COMMON) - {"draws"} <= set(inspect.signature(Checkpoint.objective).parameters)  # several objectives


def test_another_draw_is_another_part_and_the_spread_is_over_data(run: Run) -> None:
    checkpoint = run.checkpoint()
    values = [
        float(analyses.top_eigenvalues(checkpoint, k=1, examples=32, draw=draw, seed=0).eigenvalue[0])
        for draw in range(4)
    ]
    assert len(set(np.round(values, 6))) == 4
    first, again = (checkpoint.objective(examples=32, draw=d) for d in (0, 0))
    assert torch.equal(first.batches[0][0], again.batches[0][0])
    assert torch.equal(first.batches[0][0], checkpoint.objective(examples=32).batches[0][0])
    with pytest.raises(ValueError, match="expected examples beside it"):
        analyses.trace(checkpoint, draw=1)


def test_parts_of_a_batch_change_no_number_and_are_recorded(run: Run) -> None:
    checkpoint = run.checkpoint()
    whole = analyses.hessian_spectrum(checkpoint, k=1, dtype=torch.float64)
    parts = analyses.hessian_spectrum(checkpoint, k=1, dtype=torch.float64, micro_batch=5)
    np.testing.assert_allclose(parts.eigenvalue, whole.eigenvalue, rtol=1e-8)
    assert parts.attrs["micro_batch"] == 5
    rounded = analyses.psf(checkpoint, batches=1, autocast=torch.bfloat16)
    assert rounded.attrs["objective_autocast"] == "bfloat16"


def test_each_is_another_question_on_the_command_line_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [[], ["--draw", "1"], ["--micro_batch", "4"], ["--autocast", "bfloat16"]]
    for more in asked:
        assert main(["analyze", str(run.path), "curvature_along", "--examples", "20", *more]) == 0, capsys.readouterr()
    assert len(list(Path(run.path / "analyses").glob("curvature_along-*"))) == len(asked)
    assert main(["analyze", str(run.path), "curvature_along", "--draw", "1"]) == 2
    assert "expected examples beside it" in capsys.readouterr().err


def test_an_objective_has_them_already(run: Run) -> None:
    for name, value in {"draw": 1, "micro_batch": 2, "autocast": torch.bfloat16}.items():
        with pytest.raises(TypeError, match=f"{name}.* choose a checkpoint's objective"):
            analyses.trace(run.checkpoint().objective(), **{name: value})

"""Law of every vector that a checkpoint hands over: it is in θ's coordinates, in whatever order the optimizer has them."""

from pathlib import Path

import pytest
import torch
from torch import nn

import analyses
import optimizers
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.training import bases, state
from landscape.training.training import train

KEEPERS = {"fsam": "gradient_average", "vasso": "gradient_average", "s2sam": "previous_gradient", "msam": None}
EXPERIMENT = Experiment(
    # equal widths: a wrong order fits
    data_options={"train_examples": 32},
    model_options={"widths": [5, 5, 5]},
    batch_size=8,
    epochs=1,
    rho=0.1,
)


@pytest.fixture
def layers_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base optimizer whose groups are the model's layers, the last first."""

    def build(experiment: Experiment, model: nn.Module) -> torch.optim.Optimizer:
        groups = [list(module.parameters(recurse=False)) for module in model.modules()]
        return torch.optim.SGD([{"params": group} for group in reversed(groups) if group], lr=0.1, momentum=0.9)

    assert bases.build_base
    monkeypatch.setattr(state, "build_base", build)


@pytest.mark.parametrize("method", KEEPERS)
@pytest.mark.parametrize("order", ["model", "layers reversed"])
def test_a_vector_is_mapped_by_identity(
    method: str, order: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if order != "model":
        request.getfixturevalue("layers_reversed")
    seen: list[state.Training] = []
    original = state.Training.contents
    monkeypatch.setattr(state.Training, "contents", lambda self, run: seen.append(self) or original(self, run))
    run = train(EXPERIMENT.replace(optimizer=method), tmp_path / "run", progress=False)
    training, vectors = seen[-1], run.checkpoint("last").vectors
    key = KEEPERS[method]
    assert set(vectors) == {"momentum", key} - {None}
    parameters = list(training.model.parameters())
    for name in vectors:
        if name == "momentum":
            kept = [training.optimizer.base.state[p]["momentum_buffer"] for p in parameters]
        else:
            kept = [training.optimizer.state[p][name] for p in parameters]
        by_hand = torch.cat([tensor.detach().reshape(-1) for tensor in kept])
        assert by_hand.any()
        assert torch.equal(vectors[name], by_hand), name
    assert torch.equal(run.checkpoint("last").momentum, vectors["momentum"])
    with pytest.raises(KeyError, match="no vector 'psf' in this checkpoint; there is momentum"):
        vectors["psf"]


def test_an_analysis_gets_the_average_from_the_checkpoint(tmp_path: Path) -> None:
    run = train(EXPERIMENT.replace(optimizer="fsam"), tmp_path / "run", progress=False)
    found = analyses.gradient_similarity(run.checkpoint("last"), batches=2, rho_msam_grid=[0.1])
    assert "noise" in found.gradient
    assert found.attrs["gradient_average"] == "the checkpoint's"
    given = analyses.gradient_similarity(
        run.checkpoint("last"),
        batches=2,
        rho_msam_grid=[0.1],
        gradient_average=run.checkpoint("last").vectors["gradient_average"],
    )
    assert found.drop_attrs(deep=False).identical(given.drop_attrs(deep=False))


def test_a_file_without_the_order_has_the_models(tmp_path: Path) -> None:
    """As older releases wrote them."""
    run = train(EXPERIMENT.replace(optimizer="fsam"), tmp_path / "run", progress=False)
    checkpoint = run.checkpoint("last")
    expected = checkpoint.vectors["gradient_average"]
    model = checkpoint.model()
    older = Run.create(tmp_path / "older", run.experiment)
    older.save(3, model=model, momentum=None, state={"optimizer": checkpoint.state("optimizer")}, metrics={})
    vectors = older.checkpoint(3).vectors
    assert list(vectors) == ["gradient_average"]
    assert torch.equal(vectors["gradient_average"], expected)


def test_an_optimizer_of_another_model_has_no_names() -> None:
    from landscape.runs.named_vectors import parameter_order

    stranger = optimizers.create("plain", torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    with pytest.raises(ValueError, match="got 2 that it does not have"):
        parameter_order(nn.Linear(2, 2), stranger)

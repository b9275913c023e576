"""One name, one formula: what training's probe and an analysis both measure agrees, what differs is called differently."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from every_analysis import OPTIONS, asked
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import analyses
from analyses import figures
from analyses.gradients.plane import zero_crossing
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.objective.objective import Objective
from landscape.training.probes import NAMES, probe
from landscape.training.state import Training
from landscape.training.training import train
from optimizers import create

NETWORKS = {
    "plain": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    "batch norm, momentum None": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, 3)
    ),
    "untracked": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3)
    ),
    "batch norm and dropout of zero": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.0), nn.Linear(8, 3)
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_psf_of_training_is_the_psf_of_the_analysis(network: str) -> None:
    """In mode "batch", which a checkpoint's objective has; with running statistics it is another number."""
    torch.manual_seed(0)
    model = NETWORKS[network]().double()
    x, y = 3 * torch.randn(20, 6, dtype=torch.float64) + 1, torch.randint(3, (20,))
    optimizer = create("plain", torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(closure)
    probed = probe(model, loss, optimizer, 0.1, 0.3)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    objective = Objective(model, nn.CrossEntropyLoss(), [(x, y)], mode="batch")
    found = analyses.psf(objective, rho=0.1)
    assert float(found.l2_psf[0]) == pytest.approx(float(probed["l2_psf"]), rel=1e-9)
    assert float(found.ratio[0]) == pytest.approx(float(probed["psf_ratio"]), rel=1e-9)
    similar = analyses.gradient_similarity(objective, momentum=optimizer)
    cosine = similar.cosine.sel(gradient="sgd", other="momentum")
    assert float(cosine[0]) == pytest.approx(float(probed["momentum_cosine_next_batch"]), rel=1e-9)
    rise = analyses.directional_sharpness(objective, momentum=optimizer, directions=["momentum"], radii=[-0.3])
    assert float(rise.sharpness[0, 0]) == pytest.approx(float(probed["momentum_ascent"]), rel=1e-9)
    # and the model came out as it went in
    assert model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(m.track_running_stats == (network != "untracked") for m in model.modules() if hasattr(m, "running_mean"))
    if "batch norm" in network:
        running = analyses.psf(Objective(model, nn.CrossEntropyLoss(), [(x, y)]), rho=0.1)
        assert abs(float(running.l2_psf[0] / found.l2_psf[0]) - 1) > 0.05
        with pytest.raises(ValueError, match="one mode of BatchNorm, got a: batch statistics, b: running statistics"):
            analyses.compare_psf({"a": found, "b": running})


@pytest.mark.parametrize(("method", "precision"), [("msam", "float32"), ("sam", "float64")])
def test_the_psf_that_a_training_noted_is_that_of_its_checkpoint_on_the_same_batch(
    tmp_path: Path, method: str, precision: Literal["float32", "float64"]
) -> None:
    """Of a convnet with BatchNorm, in the training's own precision, without autocast and micro-batches: from the files
    of a run, to 1e-5; with running statistics it is another number."""
    experiment = Experiment(
        data_options={"train_examples": 96}, model="convnet", model_options={"channels": [4, 4]}, batch_size=32,
        optimizer=method, epochs=2, precision=precision,
    )  # fmt: skip
    execution = Execution(checkpoint_every=1, probe_every=1)
    assert not execution.micro_batch_size
    run = train(experiment, tmp_path, execution=execution, progress=False)
    checkpoint = run.checkpoint(3)
    inputs, targets, _ = next(Training(experiment).batches_of_epoch(1))
    batch = [(inputs, targets)]
    objective = checkpoint.objective(mode="batch").on(batch)
    assert objective.function.autocast is None
    found = analyses.psf(objective, rho=execution.probe_rho_sam)
    for analysed, probed in (("l2_psf", "l2_psf"), ("ratio", "psf_ratio")):
        steps, values = run.all_series()[probed]
        assert float(found[analysed][0]) == pytest.approx(values[list(steps).index(3)], rel=1e-5)
    running = analyses.psf(checkpoint.objective().on(batch), rho=execution.probe_rho_sam)
    assert abs(float(running.l2_psf[0] / found.l2_psf[0]) - 1) > 0.05


@pytest.mark.parametrize("drawn", ["compare_psf", "compare_gradient_similarity", "compare_directional_sharpness"])
def test_numbers_of_two_modes_are_not_drawn_together(drawn: str) -> None:
    model = NETWORKS["batch norm"]()
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    name = drawn.removeprefix("compare_")
    datasets = {
        mode: analyses.get(name)(Objective(model, nn.CrossEntropyLoss(), [(x, y)], mode=mode), **options)
        for mode in ("eval", "batch")
        for options in (
            {"momentum": torch.ones(Objective(model, nn.CrossEntropyLoss(), [(x, y)]).size)} if name != "psf" else {},
        )
    }
    with figures.axes(None) as ax, pytest.raises(ValueError, match="different functions of the weights"):
        getattr(analyses, drawn)(datasets, ax)
    plain = {mode: dataset.assign_attrs(objective_batch_norm="none in the model") for mode, dataset in datasets.items()}
    getattr(analyses, drawn)(plain)


def test_a_number_that_two_analyses_give_one_name_is_one_number() -> None:
    """Within its standard error where it is an estimate; and no analysis uses a name of training's probes for another."""
    found: dict[str, dict[str, tuple[float, float, str]]] = {}
    for name in OPTIONS:
        dataset = asked(name, 1.0, torch.float64)
        for variable, values in dataset.data_vars.items():
            if not values.ndim and not str(variable).endswith("_stderr"):
                error = float(dataset.get(f"{variable}_stderr", 0.0))
                found.setdefault(str(variable), {})[name] = (float(values), error, values.attrs["units"])
        assert not set(map(str, dataset.data_vars)) & (set(NAMES) - {"l2_psf"})
    assert len(found["trace"]) == 2
    for name, answers in found.items():
        first, *others = answers.values()
        for other in others:
            assert other[2] == first[2], f"{name} of {', '.join(answers)}"
            assert abs(other[0] - first[0]) <= 6 * (other[1] + first[1]) + 1e-9, f"{name} of {', '.join(answers)}"


# the angle on a signed grid


@given(
    st.lists(st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=4, unique=True),
    st.integers(20, 60),
)
def test_the_crossing_is_the_one_nearest_to_zero(roots: list[float], points: int) -> None:
    """Of a polynomial with these roots, on a grid that is fine enough for linear interpolation."""
    radius = np.linspace(-3.2, 3.2, 40 * points)
    gap = np.abs(np.subtract.outer(roots, roots))[~np.eye(len(roots), dtype=bool)].min(initial=10)
    nearest = sorted(np.abs(roots))
    if gap < 0.05 or (len(nearest) > 1 and nearest[1] - nearest[0] < 0.02):
        return
    angle = np.prod([radius - root for root in roots], axis=0)
    expected = min(roots, key=abs)
    assert zero_crossing(radius, angle) == pytest.approx(expected, abs=0.01)
    assert zero_crossing(-radius[::-1], angle[::-1]) == pytest.approx(-expected, abs=0.01)


def test_a_crossing_on_a_point_of_the_grid_and_none() -> None:
    grid = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert zero_crossing(grid, np.array([1.0, 0.0, -1.0, -0.5, 0.5])) == -1.0
    assert zero_crossing(grid, np.array([3.0, 2.0, -1.0, 0.0, 0.5])) == pytest.approx(-1 / 3)
    assert np.isnan(zero_crossing(grid, np.ones(5)))
    assert np.isnan(zero_crossing(grid, np.full(5, np.nan)))


# attributes


def test_tracking_keeps_what_a_single_search_says() -> None:
    objectives = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = NETWORKS["plain"]().double()
        x, y = torch.randn(20, 6, dtype=torch.float64), torch.randint(3, (20,))
        objectives.append(Objective(model, nn.CrossEntropyLoss(), [(x, y)]))
    found = analyses.track_eigenvalues(objectives, k=2, refresh=2)
    single = analyses.top_eigenvalues(objectives[0], k=2)
    for name, value in single.attrs.items():
        if name.startswith("objective_") or name.endswith("_version"):
            assert found.attrs[name] == value
    searched = {"verification_matvecs", "restarts", "unseen_distinct", "message", "matvecs"}
    assert searched | {"converged"} <= set(single.attrs)
    for name in searched | {"search_converged"}:
        assert found[name].dims == ("step",), name
    assert float(found.unseen_distinct[0]) <= 1e-4
    assert np.isnan(found.unseen_distinct[1])
    assert found.attrs["converged"] == 1
    assert found.attrs["matvecs"] == int(found.matvecs.sum())
    for name in single.data_vars:
        assert found[name].attrs == single[name].attrs


def test_unseen_says_that_it_speaks_of_distinct_eigenvalues() -> None:
    """Of an eigenvalue five times, a search from one vector that is told nothing finds one; that the others exist is
    neither excluded nor claimed to be."""
    diagonal = torch.cat([torch.full((4,), 5.0), torch.linspace(0, 1, 60)]).double()
    found = analyses.lanczos(torch.diag(diagonal), 2, unseen_distinct=1e-4)
    assert found.unseen_distinct < 1e-4
    assert "unseen" not in vars(found)
    with_copies = analyses.lanczos(torch.diag(diagonal), 4, multiplicity=True)
    torch.testing.assert_close(with_copies.values, torch.full((4,), 5.0, dtype=torch.float64))
    assert np.isnan(with_copies.unseen_distinct)

"""Hessian eigenvalues of small networks against LAPACK on the dense Hessian of all examples in one batch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from analyses.eigenvalue_tracking import track_eigenvalues
from analyses.hessian_benchmark import hessian_benchmark, installed, table
from analyses.hessian_spectrum import (
    compare_top_eigenvalues,
    hessian_spectrum,
    plot_hessian_spectrum,
    plot_top_eigenvalues,
    top_eigenvalues,
)
from landscape.objective import Objective


@pytest.fixture
def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)).double()
    model(torch.randn(50, 6, dtype=torch.float64))  # running statistics that are not the defaults
    return model, torch.randn(29, 6, dtype=torch.float64), torch.randint(4, (29,))


def exact(problem: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> np.ndarray:
    model, x, y = problem
    model.eval()
    names = [name for name, _ in model.named_parameters()]

    def loss(*blocks: torch.Tensor) -> torch.Tensor:
        output = torch.func.functional_call(model, dict(zip(names, blocks, strict=True)), (x,))
        return nn.functional.cross_entropy(output, y)

    parameters = tuple(p.detach() for p in model.parameters())
    blocks = torch.autograd.functional.hessian(loss, parameters)
    rows = [torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for row, p in zip(blocks, parameters, strict=True)]
    return np.linalg.eigvalsh(torch.cat(rows).numpy())


@pytest.mark.parametrize("sizes", [(29,), (16, 13), (1, 2, 3, 4, 5, 6, 8)])
@pytest.mark.parametrize("backend", ["lanczos", "scipy"])
def test_eigenvalues_are_those_of_the_dense_hessian(problem, sizes: tuple[int, ...], backend: str) -> None:
    model, x, y = problem
    objective = Objective(model, nn.CrossEntropyLoss(), list(zip(x.split(sizes), y.split(sizes), strict=True)))
    true = exact(problem)
    top = top_eigenvalues(objective, k=5, tol=1e-9, backend=backend)
    np.testing.assert_allclose(top.eigenvalue, true[::-1][:5], rtol=1e-8)
    assert (np.abs(top.eigenvalue - true[::-1][:5]) <= top.error_bound).all()
    bottom = top_eigenvalues(objective, k=2, which="SA", tol=1e-9, backend=backend)
    np.testing.assert_allclose(bottom.eigenvalue, true[:2], rtol=1e-8)


def test_products_are_counted_in_the_file(problem) -> None:
    model, x, y = problem
    objective = Objective(model, nn.CrossEntropyLoss(), list(zip(x.split(10), y.split(10), strict=True)))
    found = top_eigenvalues(objective, k=3)
    assert found.attrs["matvecs"] == found.attrs["hessian_products"]
    assert found.attrs["converged"] == 1
    assert found.attrs["objective_batch_norm"] == "running statistics"


def test_pyhessian_agrees_to_its_own_accuracy(problem) -> None:
    model, x, y = problem
    objective = Objective(model.float(), nn.CrossEntropyLoss(), [(x.float(), y)])
    state = torch.get_rng_state()
    theirs = top_eigenvalues(objective, k=2, which="LM", backend="pyhessian")
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    ours = top_eigenvalues(objective, k=2, which="LM", tol=1e-5)
    np.testing.assert_allclose(theirs.eigenvalue, ours.eigenvalue, rtol=0.05)
    assert (np.abs(theirs.eigenvalue - ours.eigenvalue) <= theirs.error_bound + ours.error_bound).all()
    with pytest.raises(ValueError, match="largest magnitudes only"):
        top_eigenvalues(objective, backend="pyhessian")


def test_pictures(problem) -> None:
    model, x, y = problem
    found = top_eigenvalues(Objective(model, nn.CrossEntropyLoss(), [(x, y)]), k=3)
    assert plot_top_eigenvalues(found).get_ylabel() == "Hessian eigenvalue [loss/‖θ‖₂²]"
    compare_top_eigenvalues({"SGD": found, "SAM": found})


def test_both_ends_and_their_summary(problem) -> None:
    model, x, y = problem
    true = exact(problem)
    found = hessian_spectrum(Objective(model, nn.CrossEntropyLoss(), [(x, y)]), k=5, smallest=2, tol=1e-9)
    np.testing.assert_allclose(found.eigenvalue, true[::-1][:5], rtol=1e-8)
    np.testing.assert_allclose(found.smallest_eigenvalue, true[:2], rtol=1e-8)
    np.testing.assert_allclose(found.spread, true[-1] / true[-5], rtol=1e-8)
    np.testing.assert_allclose(found.negative_ratio, -true[0] / true[-1], rtol=1e-8)
    assert found.attrs["matvecs"] == found.attrs["hessian_products"]
    plot_hessian_spectrum(found)


def test_tracking_along_a_run_finds_what_cold_searches_find(problem) -> None:
    model, x, y = problem
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.eval()
    checkpoints = []
    for _ in range(8):
        checkpoints.append(Objective(copy.deepcopy(model), nn.CrossEntropyLoss(), [(x, y)]))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    warm = track_eigenvalues(checkpoints, k=3, refresh=5)
    cold = track_eigenvalues(checkpoints, k=3, refresh=1)
    assert warm.eigenvalue.dims == ("step", "k")
    assert warm.step.values.tolist() == list(range(8))
    np.testing.assert_allclose(warm.eigenvalue, cold.eigenvalue, rtol=1e-4)
    assert bool(warm.converged.all())
    assert (warm.matvecs[[1, 2, 3, 4, 6, 7]] <= cold.matvecs[[1, 2, 3, 4, 6, 7]] / 2).all()
    assert warm.matvecs[5] == cold.matvecs[5]
    with pytest.raises(ValueError, match="at least one"):
        track_eigenvalues([])


def test_other_matrices_and_blocks_of_parameters(problem) -> None:
    model, x, y = problem
    objective = Objective(model, nn.CrossEntropyLoss(), [(x, y)])
    for matrix, operator in (("ggn", objective.ggn()), ("fisher", objective.fisher())):
        found = top_eigenvalues(objective, k=2, tol=1e-9, matrix=matrix)
        np.testing.assert_allclose(found.eigenvalue, torch.linalg.eigvalsh(operator.dense()).flip(0)[:2], rtol=1e-8)
    rows = objective.space.indices(objective.space.subspace("3"))
    block = objective.hessian().dense()[rows][:, rows]
    found = top_eigenvalues(objective, k=2, tol=1e-9, parameters="3")
    np.testing.assert_allclose(found.eigenvalue, torch.linalg.eigvalsh(block).flip(0)[:2], rtol=1e-8)
    assert found.attrs["hessian_products"] == found.attrs["matvecs"]
    assert found.attrs["way"] == "retained"
    with pytest.raises(ValueError, match="hessian, ggn, fisher"):
        top_eigenvalues(objective, matrix="kfac")
    with pytest.raises(ValueError, match="all parameters only"):
        top_eigenvalues(objective, which="LM", backend="pyhessian", parameters="3")


def test_unknown_backend_and_too_many_pairs(problem) -> None:
    model, x, y = problem
    objective = Objective(model, nn.CrossEntropyLoss(), [(x, y)])
    with pytest.raises(ValueError, match="lanczos, scipy or pyhessian"):
        top_eigenvalues(objective, backend="magma")
    with pytest.raises(ValueError, match="k = 999"):
        top_eigenvalues(objective, k=999)


def test_the_benchmark_measures_every_program_alike(problem) -> None:
    model, x, y = problem
    objective = Objective(model, nn.CrossEntropyLoss(), [(x, y)])
    chosen = {name: solver for name, solver in installed().items() if name == "lanczos" or "scipy" in name}

    def broken(*_: object) -> None:
        raise RuntimeError("out of order")

    result = hessian_benchmark(objective, k=2, repeats=1, solvers={**chosen, "broken": broken})
    ours = result.sel(solver="lanczos")
    assert ours.products <= result.attrs["floor"] + 1
    assert ours.met == 1
    assert np.isnan(result.sel(solver="broken").products)
    assert "RuntimeError: out of order" in table(result)

"""Two processes, each with its share of the examples and of the basis, against one process with everything."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

PROGRAM = textwrap.dedent(
    """
    import json, sys
    import torch
    from torch import distributed, nn
    from analyses.krylov.lanczos import lanczos
    from landscape.distributed import leave
    from landscape.objective.objective import Objective

    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 4))
    x, y = torch.randn(101, 8), torch.randint(4, (101,))
    sizes = (40, 1, 33, 20, 7)
    batches = list(zip(x.split(sizes), y.split(sizes)))
    objective = Objective(model, nn.CrossEntropyLoss(), batches, data_parallel=world > 1)
    answer = {"value": float(objective()), "gradient": objective.gradient().tolist(), "examples": objective.examples}
    for sharded in ([False, True] if world > 1 else [False]):
        before = objective.hessian_products
        found = lanczos(objective.hessian(), 5, max_basis=18, tol=1e-4, sharded=sharded)
        answer["sharded" if sharded else "whole"] = {
            "values": found.values.tolist(),
            "residuals": found.residuals.tolist(),
            "matvecs": found.matvecs,
            "counted": objective.hessian_products - before,
            "overlap": float((found.vectors.T @ found.vectors - torch.eye(5)).abs().max()),
        }
    answer["ggn"] = (objective.ggn() @ torch.ones(objective.size)).tolist()
    answer["processes"] = objective.description["processes"]
    answer["batches"] = objective.description["batches"]
    if rank == 0:
        print(json.dumps(answer))
    if world > 1:
        leave()
    """
)


def run(world: int, folder: Path) -> dict:
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(world), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for rank in range(world)
    ]
    finished = [program.communicate(timeout=300) for program in programs]
    assert all(program.returncode == 0 for program in programs), [errors for _, errors in finished]
    return json.loads(finished[0][0])


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    one, two = run(1, tmp_path), run(2, tmp_path)
    assert (two["processes"], two["batches"], two["examples"]) == (2, 5, 101)
    np.testing.assert_allclose(two["value"], one["value"], rtol=1e-6)
    np.testing.assert_allclose(two["gradient"], one["gradient"], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(two["ggn"], one["ggn"], rtol=1e-5, atol=1e-7)
    for basis in ("whole", "sharded"):
        np.testing.assert_allclose(two[basis]["values"], one["whole"]["values"], rtol=1e-5)
        assert two[basis]["matvecs"] == one["whole"]["matvecs"] == two[basis]["counted"]
        assert two[basis]["overlap"] < 1e-5
        assert (np.array(two[basis]["residuals"]) <= 1e-4 * np.array(two[basis]["values"])).all()

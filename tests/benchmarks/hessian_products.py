"""One curvature product in gradients, by each way, on the two test problems; and one vector of a block of 16.

python tests/benchmarks/hessian_products.py [--network mlp resnet20] [--examples 512] [--repeats 7] [--device cpu]
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hessian_networks import problem

from landscape.objective.objective import Objective


def costs(objective: Objective, ways: list[str], block: int, repeats: int) -> dict[str, float]:
    """Median seconds a vector, all in turn; the first turn builds what is kept and is not counted."""
    one = torch.randn(objective.size, device=objective.device)
    several = torch.randn(objective.size, block, device=objective.device)
    operators = {way: objective.hessian(way=way) for way in ways} | {"GGN": objective.ggn()}
    work = [(name, 1, functools.partial(operator.__matmul__, one)) for name, operator in operators.items()]
    work.append((f"retained, a vector of {block}", block, functools.partial(operators["retained"].__matmul__, several)))
    work.append(("gradient", 1, objective.gradient))
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in work}
    for turn in range(repeats + 1):
        for name, vectors, function in work:
            begun = time.perf_counter()
            function()
            if objective.device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append((time.perf_counter() - begun) / vectors)
    return {name: statistics.median(times) for name, times in seconds.items()}


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--network", nargs="+", default=["mlp", "resnet20"])
parser.add_argument("--examples", type=int, default=512)
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--block", type=int, default=16)
parser.add_argument("--device", default="cpu")
parser.add_argument("--ways", nargs="+", default=["retained", "linearised", "recomputed", "forward over reverse"])
arguments = parser.parse_args()
warnings.filterwarnings("ignore")
for network in arguments.network:
    objective = problem(network, examples=arguments.examples, steps=20, device=arguments.device)
    medians = costs(objective, arguments.ways, arguments.block, arguments.repeats)
    gradient = medians.pop("gradient")
    print(f"{network}, {arguments.examples} examples, gradient {1e3 * gradient:.3g} ms; in gradients:")
    print("  " + ", ".join(f"{name} {median / gradient:.2f}" for name, median in medians.items()), flush=True)

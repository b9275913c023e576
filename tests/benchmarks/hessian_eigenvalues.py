"""Top-1 and top-5 Hessian eigenvalues by every program installed here: products, seconds, true residuals.

python tests/benchmarks/hessian_eigenvalues.py [--network mlp resnet20] [--examples 512] [--repeats 3] [--device
cpu]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hessian_networks import problem

from analyses.curvature.benchmark import hessian_benchmark, installed, table

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--network", nargs="+", default=["mlp", "resnet20"])
parser.add_argument("--examples", type=int, default=512)
parser.add_argument("--steps", type=int, nargs="+", default=[0, 100])
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--k", type=int, nargs="+", default=[1, 5])
parser.add_argument("--programs", nargs="+", default=list(installed()), choices=list(installed()))
parser.add_argument("--device", default="cpu")
arguments = parser.parse_args()
warnings.filterwarnings("ignore")
where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU, 1 thread"
print(f"torch {torch.__version__}, {where}, {arguments.examples} examples, medians of {arguments.repeats} in turn\n")
for network in arguments.network:
    for steps in arguments.steps:
        objective = problem(network, examples=arguments.examples, steps=steps, device=arguments.device)
        for k in arguments.k:
            programs = {name: installed()[name] for name in arguments.programs}
            result = hessian_benchmark(objective, k=k, repeats=arguments.repeats, solvers=programs)
            header = f"{network}, {objective.size} parameters, {steps} steps, products {result.attrs['way']}"
            print(f"{header}: {table(result)}\n", flush=True)

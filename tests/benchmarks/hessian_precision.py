"""What lower precision does to Hessian eigenvalues: the model in bfloat16 autocast, and in TF32 on a GPU, beside float64.

python tests/benchmarks/hessian_precision.py [--network mlp resnet20] [--examples 64] [--device cpu]
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hessian_networks import problem

from analyses.lanczos import lanczos
from landscape.objective import Objective

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--network", nargs="+", default=["mlp", "resnet20"])
parser.add_argument("--steps", type=int, nargs="+", default=[0, 100])
parser.add_argument("--examples", type=int, default=64)
parser.add_argument("--device", default="cpu")
arguments = parser.parse_args()
warnings.filterwarnings("ignore")

precisions = {"float64": {"dtype": torch.float64}, "float32": {}, "bfloat16 autocast": {"autocast": torch.bfloat16}}
if arguments.device == "cuda":
    precisions["TF32"] = {}
print(
    "| network | precision | products | checked by | largest relative residual | error of λ₁ | largest error of λ₁ … λ₅ |"
)
print("|---|---|---|---|---|---|---|")
for network in arguments.network:
    for steps in arguments.steps:
        base = problem(network, examples=arguments.examples, steps=steps, device=arguments.device)
        for name, options in precisions.items():
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "TF32"
            objective = Objective(
                base.model, base.loss_fn, [(b.inputs, b.targets) for b in base.batches.walk()], **options
            )
            tol = 1e-8 if name == "float64" else 1e-3
            found = lanczos(objective.hessian(), 5, tol=tol, unseen_distinct=1e-4, max_matvecs=100)
            if name == "float64":
                exact = found.values
            errors = (found.values / exact - 1).abs()
            print(
                f"| {network}, {steps} steps | {name}, tol {tol:g} | {found.matvecs} | {found.verification_matvecs} "
                f"| {float((found.residuals / found.values.abs()).max()):.1e} | {float(errors[0]):.1e} | {float(errors.max()):.1e} |",
                flush=True,
            )

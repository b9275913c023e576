"""Products that 20 consecutive checkpoints of an MLP cost, each search begun from the last one's eigenvectors or afresh.

python tests/benchmarks/hessian_tracking.py [--interval 5]
"""

from __future__ import annotations

import argparse
import copy
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hessian_networks import problem

from analyses.eigenvalue_tracking import track_eigenvalues
from landscape.objective import Objective

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--interval", type=int, nargs="+", default=[1, 5, 20], help="training steps between checkpoints")
parser.add_argument("--start", type=int, default=2000, help="training steps before the first")
parser.add_argument("--rate", type=float, default=0.01, help="learning rate between them")
arguments = parser.parse_args()
for interval in arguments.interval:
    objective = problem("mlp", examples=512, steps=arguments.start, device="cpu")
    model, (x, y) = objective.model, objective.batches[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=arguments.rate, momentum=0.9)
    checkpoints = []
    for _ in range(20):
        checkpoints.append(Objective(copy.deepcopy(model), nn.CrossEntropyLoss(), [(x, y)]))
        for _ in range(interval):
            chosen = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
    warm, cold = (track_eigenvalues(checkpoints, refresh=refresh) for refresh in (10, 1))
    difference = float(np.abs(warm.eigenvalue / cold.eigenvalue - 1).max())
    products = int(warm.matvecs.sum()), int(cold.matvecs.sum())
    print(
        f"every {interval:>2} steps: {products[0]} products warm, {products[1]} cold, ratio {products[0] / products[1]:.2f}; "
        f"largest relative difference {difference:.1e}; warm {warm.matvecs.values.tolist()}"
    )

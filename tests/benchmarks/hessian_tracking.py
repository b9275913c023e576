"""Products that 20 consecutive checkpoints of an MLP cost, each search begun from the last one's eigenvectors or afresh.

python tests/benchmarks/hessian_tracking.py [--interval 1 5 20] [--start 0 2000] [--k 1 5]

The leading eigenvectors of a classifier turn mostly among themselves, one for each class or so; each that has turned by
more than the tolerance costs a product. Five of them with nine to mix with thus cost about ten, where a search from a
random vector costs fifteen; the saving is large for small steps, for few eigenvalues, and where the top is clustered.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hessian_networks import problem

from analyses.curvature.tracking import track_eigenvalues
from landscape.objective.objective import Objective

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--interval", type=int, nargs="+", default=[1, 5, 20], help="training steps between checkpoints")
parser.add_argument("--start", type=int, nargs="+", default=[0, 2000], help="training steps before the first")
parser.add_argument("--k", type=int, nargs="+", default=[1, 5])
parser.add_argument("--rate", type=float, default=0.01, help="learning rate between them")
arguments = parser.parse_args()
print("| steps before | between | k | products, warm | afresh | ratio | largest relative difference |")
print("|---|---|---|---|---|---|---|")
for start, interval in itertools.product(arguments.start, arguments.interval):
    objective = problem("mlp", examples=512, steps=start, device="cpu")
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
    for k in arguments.k:
        warm, cold = (track_eigenvalues(checkpoints, k=k, refresh=refresh) for refresh in (10, 1))
        difference = float(np.abs(warm.eigenvalue / cold.eigenvalue - 1).max())
        products = int(warm.matvecs.sum()), int(cold.matvecs.sum())
        print(
            f"| {start} | {interval} | {k} | {products[0]} | {products[1]} | {products[0] / products[1]:.2f} "
            f"| {difference:.1e} |",
            flush=True,
        )

"""How often a search for five eigenvalues overlooks one, what it expected, and what it costs to make sure.

python tests/benchmarks/hessian_unseen.py [--seeds 4] [--checkpoints 8]

MLPs on the digits, at two learning rates, a checkpoint every ten steps; an eigenvalue counts as overlooked where a value
is off by more than 1e-3 from that of a search with another starting vector that went on for as long as rounding lets it.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hessian_networks import mlp

from analyses.lanczos import lanczos
from landscape.objective import Objective

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seeds", type=int, default=4)
parser.add_argument("--checkpoints", type=int, default=8)
arguments = parser.parse_args()
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
found: dict[float, list[tuple[float, float, float]]] = {limit: [] for limit in (1.0, 1e-2, 1e-3, 1e-4)}
for seed in range(arguments.seeds):
    for rate in (0.1, 0.01):
        torch.manual_seed(seed)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        for index in range(arguments.checkpoints):
            hessian = Objective(model, nn.CrossEntropyLoss(), [(x[:512], y[:512])]).hessian()
            other = torch.Generator().manual_seed(7)
            exact = lanczos(hessian, 5, tol=1e-5, unseen_distinct=0.0, generator=other).values
            for limit, rows in found.items():
                start = torch.Generator().manual_seed(100 * seed + index)
                pairs = lanczos(hessian, 5, unseen_distinct=limit, generator=start)
                rows.append((pairs.matvecs, float((pairs.values / exact - 1).abs().max()), pairs.unseen_distinct))
            for _ in range(10):
                chosen = torch.randint(len(x), (64,))
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
                optimizer.step()
print("| unseen below | searches | mean products | overlooked one | expected by `unseen` |")
print("|---|---|---|---|---|")
for limit, rows in found.items():
    products, errors, probabilities = np.array(rows).T
    missed = int((errors > 1e-3).sum())
    print(f"| {limit:g} | {len(rows)} | {products.mean():.1f} | {missed} | {probabilities.sum():.3f} |")

"""What Lanczos costs beside its products: the share of the time of 60 products with ResNet-20 that is not in them.

python tests/benchmarks/hessian_overhead.py [--examples 512] [--products 60] [--device cpu]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hessian_networks import problem

from analyses.krylov.lanczos import lanczos

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--examples", type=int, default=512)
parser.add_argument("--products", type=int, default=60)
parser.add_argument("--device", default="cpu")
arguments = parser.parse_args()
warnings.filterwarnings("ignore")


class Timed:
    """The operator, and the seconds spent in its products."""

    def __init__(self, operator: torch.Tensor) -> None:
        self.operator, self.seconds = operator, 0.0
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        self._wait()
        begun = time.perf_counter()
        product = self.operator @ vector
        self._wait()
        self.seconds += time.perf_counter() - begun
        return product

    def _wait(self) -> None:
        if arguments.device == "cuda":
            torch.cuda.synchronize()


objective = problem("resnet20", examples=arguments.examples, steps=20, device=arguments.device)
hessian = objective.hessian()
hessian @ torch.randn(objective.size, device=arguments.device)  # what is kept is built before the clock runs
timed = Timed(hessian)
begun = time.perf_counter()
found = lanczos(timed, 20, tol=1e-12, max_matvecs=arguments.products)
seconds = time.perf_counter() - begun
print(
    f"ResNet-20, n = {objective.size}, {arguments.examples} examples, {found.matvecs} products of "
    f"{1e3 * timed.seconds / found.matvecs:.0f} ms: {seconds:.1f} s, of them {1 - timed.seconds / seconds:.1%} not in products "
    f"({1e3 * (seconds - timed.seconds) / found.matvecs:.1f} ms beside each)"
)

"""Peak memory of top-5 with a bounded basis, and Lanczos' own time beside its products, on operators of known spectrum.

    python tests/benchmarks/hessian_memory.py [--size 36500000] [--max-basis 16]

Memory is the growth of the resident set's peak, in vectors of n float32 numbers; the operator's own vector is there before.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from analyses.krylov.lanczos import lanczos


class Diagonal:
    """A diagonal matrix with five outliers above a bulk in [−1.2, 1.2], and the seconds spent in its products."""

    def __init__(self, n: int) -> None:
        self.entries = torch.empty(n).uniform_(-1.2, 1.2, generator=torch.Generator().manual_seed(0))
        self.entries[:: n // 5][:5] = torch.tensor([3.0, 2.8, 2.3, 2.0, 1.76])
        self.shape, self.dtype, self.seconds = (n, n), torch.float32, 0.0

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        begun = time.perf_counter()
        product = self.entries * vector
        self.seconds += time.perf_counter() - begun
        return product


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--size", type=int, default=36_500_000)
parser.add_argument("--max-basis", type=int, default=16)
arguments = parser.parse_args()
operator = Diagonal(arguments.size)
operator @ torch.zeros(arguments.size)  # what a product needs besides its result is the operator's affair
before, begun = peak(), time.perf_counter()
found = lanczos(operator, 5, max_basis=arguments.max_basis, tol=1e-5)
vectors = (peak() - before) / (4 * arguments.size)
print(
    f"n = {arguments.size}, top-5, max_basis={arguments.max_basis}: peak grew by {vectors:.2f} vectors; "
    f"{found.matvecs} products, {found.restarts} restarts, {time.perf_counter() - begun:.1f} s; "
    f"values {[round(v, 5) for v in found.values.tolist()]}, converged {found.converged}"
)
del found, operator
small = Diagonal(272_474)
small.entries = torch.linspace(-1, 1, 272_474)  # nothing converges: the whole basis of 60 is built
begun = time.perf_counter()
lanczos(small, 5, max_matvecs=60)
own = time.perf_counter() - begun - small.seconds
print(f"n = 272474, m = 60: Lanczos' own time {own:.3f} s, {1000 * own / 60:.1f} ms a product")

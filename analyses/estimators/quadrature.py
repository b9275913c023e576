r"""Sums over a spectrum, Σ_i f(λ_i), from a few Krylov spaces of random vectors: stochastic Lanczos quadrature.

    zᵀ f(A) z ≈ Σ_j τ_j f(θ_j),   tr f(A) = n E zᵀ f(A) z      for z uniform on the unit sphere

θ_j are the Ritz values of the Krylov space of z, τ_j the squared first components of their eigenvectors; m of them are
exact for polynomials of degree 2m − 1. Eigenvectors that are known exactly can be taken out first (`known`): the spaces
are then orthogonal to them, the sum is over the other eigenvalues, and what made the largest share of the variance is
gone.

The error has two parts. That of the probes shows in their spread, and the standard errors measure it. That of the
quadrature does not show: it vanishes for functions that m points resolve, so that a Gaussian should not be narrower
than `resolution`, and a step has an error of the order of the eigenvalues within one resolution of it.

References: Golub and Meurant (2010); Ubaru, Chen and Saad (2017); Ghorbani, Krishnan and Xiao (2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analyses.estimators.estimate import check_square
from analyses.estimators.probe_vectors import gaussian, working_dtype
from analyses.estimators.spread import deviation
from analyses.krylov.basis import KrylovBasis
from analyses.krylov.decomposition import KrylovDecomposition
from analyses.krylov.scaled_operator import ScaledOperator


@dataclass(frozen=True)
class Quadrature:
    """Nodes and weights of every probe; each row of weights sums to one."""

    nodes: np.ndarray  # (p, m) Ritz values
    weights: np.ndarray  # (p, m)
    dimension: int  # eigenvalues summed over: n less the known ones
    products: int  # vectors multiplied by A

    @property
    def resolution(self) -> float:
        """The narrowest Gaussian (its standard deviation) that the quadrature integrates to about 1e-5.

        A Gaussian of standard deviation s on [−1, 1] has Chebyshev coefficients that fall like exp(−(s k)²/2), and m
        nodes are exact to degree k = 2m − 1: s = 2.5/m for that accuracy, times half the range of the nodes.
        """
        return 1.25 * float(np.ptp(self.nodes)) / self.nodes.shape[1]

    def samples(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """One unbiased value of Σ f(λ) for each probe, (p, ...), for f mapping (p, m) to (p, m, ...)."""
        return self.dimension * np.einsum("pm,pm...->p...", self.weights, function(self.nodes))


def lanczos_quadrature(
    A: Any, *, probes: int, steps: int, known: Tensor | None = None, generator: torch.Generator | None = None
) -> Quadrature:
    """Quadrature of `probes` random vectors with `steps` nodes each, orthogonal to the columns of `known` (n, k).

    `A`: anything symmetric with `.shape` and `@`. Cost: `probes` · `steps` products, `steps` at most n − k. Memory:
    `steps` + k + 1 vectors. The Krylov basis is fully orthogonalised: no eigenvalue appears as several nodes.

    Raises ValueError for a matrix that is not square, fewer than one probe or step, or no eigenvalue left to sum over;
    FloatingPointError for a product that is not finite.
    """
    n = check_square(A)
    taken = 0 if known is None else known.shape[1]
    if probes < 1 or steps < 1 or taken >= n:
        raise ValueError(
            f"expected probes ≥ 1, steps ≥ 1 and fewer known vectors than n = {n}; got {probes}, {steps} and {taken}"
        )
    generator = generator or torch.Generator().manual_seed(0)
    steps = min(steps, n - taken)
    dtype = working_dtype(A)
    basis = KrylovBasis(
        n, taken + steps + 1, dtype=dtype, storage=dtype, device=torch.device(getattr(A, "device", "cpu"))
    )
    if known is not None:
        basis.rows[:taken] = known.T
    scaled = ScaledOperator(A, watched=True)
    nodes, weights = np.empty((probes, steps)), np.empty((probes, steps))
    for probe in tqdm(range(probes), desc="quadrature", unit=" probes", delay=2, disable=None):
        space = KrylovDecomposition(scaled, basis, locked=taken, generator=generator)
        space.begin(gaussian(A, 1, generator))
        for _ in range(steps):
            space.extend()
            space.settle(behind=1)
        space.settle()
        while space.size < steps:  # an invariant subspace was met: the space goes on from a random vector, weight zero
            space.extend()
            space.settle()
        ritz = space.ritz(np.argsort)
        nodes[probe], weights[probe] = ritz.values, ritz.coefficients[0] ** 2
    return Quadrature(scaled.scale * nodes, weights, n - taken, probes * steps)


def mean_and_stderr(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis and its standard error; NaN for the error of a single sample."""
    return samples.mean(0), deviation(samples) / np.sqrt(len(samples))

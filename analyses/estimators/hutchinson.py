r"""The trace as a mean of quadratic forms with random signs.

    tr A = E zᵀAz,   Var zᵀAz = 2 Σ_{i≠j} A_ij²,   ‖A‖_F² = E ‖Az‖²       for z of independent signs

One product a sample, nothing to keep but two vectors; the estimator to take for a flat spectrum, where a low-rank
sketch gains nothing.

References: Girard (1989); Hutchinson (1990).
"""

from __future__ import annotations

from typing import Any

import torch

from analyses.estimators.estimate import (
    LEAST_SAMPLES,
    Stop,
    TraceEstimate,
    check_square,
    mean_and_stderr,
    progress,
    require_finite,
    root,
)
from analyses.estimators.probe_vectors import rademacher
from analyses.krylov.scaled_operator import ScaledOperator


def hutchinson(
    A: Any,
    *,
    rtol: float = 0.02,
    atol: float = 0.0,
    max_products: int = 1000,
    block: int = 8,
    generator: torch.Generator | None = None,
) -> TraceEstimate:
    """tr A from independent samples zᵀAz, until their standard error is at most max(atol, rtol·|mean|).

    `A`: anything symmetric with `.shape` and `@`. `block` vectors are multiplied at once. Cost: one product a sample,
    at least 32 samples unless `max_products` is less. Memory: 2 `block` vectors. The standard error is unbiased in
    variance and follows Student's t.

    Raises ValueError for a matrix that is not square or a meaningless tolerance, FloatingPointError for a product that
    is not finite.
    """
    check_square(A)
    A = ScaledOperator(A)
    stop = Stop(rtol, atol, max_products, A)
    generator = generator or torch.Generator().manual_seed(0)
    quadratic, squares = [], []
    history: list[tuple[int, float, float]] = []
    products = 0
    with progress("trace", max_products) as bar:
        while products < max_products:
            z = rademacher(A, min(block, max_products - products), generator)
            product = A @ z
            require_finite(product)
            quadratic.append((z * product).sum(0))
            squares.append((product**2).sum(0))
            products += z.shape[1]
            mean, stderr = mean_and_stderr(torch.cat(quadratic))
            history.append((products, mean, stderr))
            bar.update(z.shape[1])
            bar.set_postfix_str(f"{A.scale * mean:.4g} ± {A.scale * stderr:.2g}", refresh=False)
            if products >= LEAST_SAMPLES and stop.met(mean, stderr):
                break
    frobenius, frobenius_stderr = root(*mean_and_stderr(torch.cat(squares)))
    return TraceEstimate(
        trace=mean,
        stderr=stderr,
        frobenius=frobenius,
        frobenius_stderr=frobenius_stderr,
        samples=products,
        products=products,
        converged=stop.met(mean, stderr) and products >= min(LEAST_SAMPLES, max_products),
        history=tuple(history),
    ).times(A.scale)

r"""The trace as an exact part on a sketched range and a stochastic rest.

    Q = orth(A S),   tr A = tr(QᵀAQ) + E gᵀ P A P g,   P = I − QQᵀ        for S, g of independent signs

Given Q both parts are unbiased and the error is that of the second alone: Var = 2 ‖offdiagonal of PAP‖². Where a few
eigenvalues carry the matrix (a trained network's outliers), the sketch takes them out; on a flat spectrum its products
are spent for nothing.

Reference: Meyer, Musco, Musco and Woodruff (2021), algorithm 1, with the residual sampled until its standard error is
met instead of a third of a fixed budget.
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


def hutch_plus_plus(
    A: Any,
    *,
    rtol: float = 0.02,
    atol: float = 0.0,
    max_products: int = 1000,
    sketch: int = 16,
    block: int = 8,
    generator: torch.Generator | None = None,
) -> TraceEstimate:
    """tr A with a sketch of `sketch` vectors, the rest sampled until its standard error is at most max(atol,
    rtol·|tr|).

    `A`: anything symmetric with `.shape` and `@`. Cost: 2 `sketch` products, then one a sample, at least 32 of them.
    Memory: 2 `sketch` + 2 `block` vectors. Where the sketch spans the whole range the answer is exact to rounding and
    its standard error is next to zero.

    Raises ValueError for a matrix that is not square, a meaningless tolerance or a budget that the sketch alone
    exceeds, FloatingPointError for a product that is not finite.
    """
    n = check_square(A)
    A = ScaledOperator(A)
    stop = Stop(rtol, atol, max_products, A)
    sketch = min(sketch, n)
    if sketch < 1 or max_products < 2 * sketch + 2:
        raise ValueError(
            f"expected sketch ≥ 1 and max_products ≥ 2·sketch + 2 = {2 * sketch + 2}; got {sketch} and {max_products}; "
            "lower sketch or raise max_products"
        )
    generator = generator or torch.Generator().manual_seed(0)
    image = A @ rademacher(A, sketch, generator)
    require_finite(image)
    Q = torch.linalg.qr(image).Q
    AQ = A @ Q
    require_finite(AQ)
    exact = float((Q * AQ).sum(0).cpu().double().sum())
    exact_squares = float((AQ**2).sum(0).cpu().double().sum())  # ‖A‖_F² = ‖AQ‖_F² + ‖AP‖_F², AQ and AP orthogonal
    quadratic, squares = [], []
    history: list[tuple[int, float, float]] = []
    products, samples = 2 * sketch, 0
    with progress("trace", max_products) as bar:
        bar.update(products)
        while products < max_products:
            g = rademacher(A, min(block, max_products - products), generator)
            g = g - Q @ (Q.T @ g)
            g = g - Q @ (Q.T @ g)  # "twice is enough"
            product = A @ g
            require_finite(product)
            quadratic.append((g * product).sum(0))
            squares.append((product**2).sum(0))
            samples += g.shape[1]
            products += g.shape[1]
            rest, stderr = mean_and_stderr(torch.cat(quadratic))
            history.append((products, exact + rest, stderr))
            bar.update(g.shape[1])
            bar.set_postfix_str(f"{A.scale * (exact + rest):.4g} ± {A.scale * stderr:.2g}", refresh=False)
            if samples >= LEAST_SAMPLES and stop.met(exact + rest, stderr):
                break
    rest_squares, squares_stderr = mean_and_stderr(torch.cat(squares))
    frobenius, frobenius_stderr = root(exact_squares + rest_squares, squares_stderr)
    return TraceEstimate(
        trace=exact + rest,
        stderr=stderr,
        frobenius=frobenius,
        frobenius_stderr=frobenius_stderr,
        samples=samples,
        products=products,
        converged=stop.met(exact + rest, stderr),
        history=tuple(history),
    ).times(A.scale)

r"""The trace by leave-one-out: every test vector is in turn the sketch's and the probe.

    Y = A Ω,   Q_i = orth(Y without column i),   P_i = I − Q_iQ_iᵀ
    t_i = tr(Q_iᵀAQ_i) + (n − k + 1)/‖P_i ω_i‖² · ω_iᵀ P_i A P_i ω_i,   tr A ≈ mean of the t_i,   k columns

With QR = Y no further factorisation is needed: Q_iQ_iᵀ = Q(I − s_i s_iᵀ)Qᵀ with s_i the i-th column of R⁻ᵀ normalised,
and everything but Ω, Q and AQ is k × k.

The t_i are correlated, and the spread among them alone, s²/k, understates the error by a third to a half. Its exact
value is

    Var t̄ = E s²/k + c,   c = E (t_i − t_i∖j)(t_j − t_j∖i),   i ≠ j

t_i∖j being t_i with column j left out as well: given the other columns, the errors of t_i∖j and t_j∖i are independent
of mean zero, and so is that of t_i∖j of the error of t_j, so that only the product of the two changes is left of the
covariance c. All pairs of it cost as much as one more k × k product.

References: Epperly, Tropp and Webber (2024), sections 2.2-2.3 (the normalised form for Gaussian test vectors); the
standard error is ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from analyses.estimators.estimate import (
    Stop,
    TraceEstimate,
    check_square,
    mean_and_stderr,
    progress,
    require_finite,
    root,
)
from analyses.estimators.probe_vectors import gaussian
from analyses.krylov.scaled_operator import ScaledOperator

LEAST_COLUMNS = 32  # fewer give a standard error that is itself too uncertain to stop on


def xtrace(
    A: Any,
    *,
    rtol: float = 0.02,
    atol: float = 0.0,
    max_products: int = 400,
    block: int = 8,
    generator: torch.Generator | None = None,
) -> TraceEstimate:
    """tr A from k test vectors used twice, k grown until the standard error is at most max(atol, rtol·|tr|).

    `A`: anything symmetric with `.shape` and `@`. Cost: 2 k products, k ≥ 32 where the budget allows. Memory: 3 k
    vectors, and with a budget of N products at most 3N/2. Where Q spans the range (k ≥ n, or a matrix of rank below k
    to rounding) tr(QᵀAQ) is all there is, and the standard error is an estimate of the products' rounding, ε √n ‖A‖_F.

    Raises ValueError for a matrix that is not square, a meaningless tolerance or a budget of less than 4 products,
    FloatingPointError for a product that is not finite.
    """
    n = check_square(A)
    A = ScaledOperator(A)
    stop = Stop(rtol, atol, max_products, A)
    if max_products < 4:
        raise ValueError(f"max_products: expected at least 4, two test vectors used twice; got {max_products}")
    generator = generator or torch.Generator().manual_seed(0)
    tests = images = Q = AQ = gaussian(A, 0, generator)
    history: list[tuple[int, float, float]] = []
    most = min(max_products // 2, n)
    with progress("trace", 2 * most) as bar:
        while True:
            fresh = gaussian(A, min(block, most - tests.shape[1]), generator)
            image = A @ fresh
            require_finite(image)
            tests, images = torch.cat([tests, fresh], 1), torch.cat([images, image], 1)
            directions = _orthonormal(image, Q)
            Q, AQ = torch.cat([Q, directions], 1), torch.cat([AQ, A @ directions], 1)
            require_finite(AQ)
            trace, stderr, exact = _estimate(tests, images, Q, AQ)
            products = 2 * tests.shape[1]
            history.append((products, trace, stderr))
            bar.update(2 * fresh.shape[1])
            bar.set_postfix_str(f"{A.scale * trace:.4g} ± {A.scale * stderr:.2g}", refresh=False)
            enough = tests.shape[1] >= min(LEAST_COLUMNS, most)
            if exact or (enough and stop.met(trace, stderr)) or tests.shape[1] == most:
                break
    # ‖A‖_F is that of AQ where Q spans the range; elsewhere E ‖Aω‖² = ‖A‖_F².
    squares = (float((AQ**2).sum(0).cpu().double().sum()), 0.0) if exact else mean_and_stderr((images**2).sum(0))
    frobenius, frobenius_stderr = root(*squares)
    return TraceEstimate(
        trace=trace,
        stderr=stderr,
        frobenius=frobenius,
        frobenius_stderr=frobenius_stderr,
        samples=tests.shape[1],
        products=products,
        converged=exact or stop.met(trace, stderr),
        history=tuple(history),
    ).times(A.scale)


def _orthonormal(image: Tensor, Q: Tensor) -> Tensor:
    """An orthonormal basis of the part of `image` (n, b) that is orthogonal to `Q`, by block Gram–Schmidt, twice."""
    for _ in range(2):
        image = torch.linalg.qr(image - Q @ (Q.T @ image)).Q
    return image


def _estimate(tests: Tensor, images: Tensor, Q: Tensor, AQ: Tensor) -> tuple[float, float, bool]:
    """The mean of the t_i, its standard error, and whether Q spans the range of A, so that tr(QᵀAQ) is the trace."""
    R, H, W = ((Q.T @ block).cpu().double() for block in (images, AQ, tests))
    n, k = tests.shape
    sizes, epsilon = R.diagonal().abs(), torch.finfo(tests.dtype).eps
    if k >= n or bool(sizes.min() <= 10 * epsilon * sizes.max()):
        return float(H.trace()), epsilon * math.sqrt(n) * float(torch.linalg.matrix_norm(H)), True
    S = torch.linalg.solve_triangular(R.triu().T, torch.eye(k, dtype=torch.float64), upper=False)
    S = S / torch.linalg.vector_norm(S, dim=0)
    lengths = (tests**2).sum(0).cpu().double()
    one_out, two_out = leave_out(R, H, W, S, lengths, n)
    change = (one_out[:, None] - two_out).fill_diagonal_(0)
    spread = float(one_out.var()) / k
    covariance = float((change * change.T).sum()) / (k * (k - 1))
    # Below zero the estimate of c is noise, whose size the standard error had better contain.
    return float(one_out.mean()), math.sqrt(spread + abs(covariance)), False


def leave_out(R: Tensor, H: Tensor, W: Tensor, S: Tensor, lengths: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """t_i (k,) and t_i∖j (k, k; its diagonal means nothing), from R = QᵀY, H = QᵀAQ, W = QᵀΩ, S and ‖ω_i‖².

    The projection of ω_i on what is left of Q's range has the coefficients x = w_i − b s_i, and x = w_i − a s_j − b s_i
    without column j. As r_i is orthogonal to every s but s_i, the quadratic form of the rest of ω_i is
    xᵀHx + 2b r_iᵀs_i − r_iᵀw_i both times.
    """
    k = len(lengths)
    SHS, SW, SHW = S.T @ H @ S, S.T @ W, S.T @ H @ W
    sHs, sw, sHw = SHS.diagonal(), SW.diagonal(), SHW.diagonal()
    wHw, ww, rw, rs = (W * (H @ W)).sum(0), (W**2).sum(0), (W * R).sum(0), (R * S).sum(0)

    rest = wHw - 2 * sw * sHw + sw**2 * sHs + 2 * sw * rs - rw
    one_out = H.trace() - sHs + (n - k + 1) * rest / (lengths - ww + sw**2)

    c = S.T @ S  # row i, column j from here on
    q = (1 - c**2).fill_diagonal_(1)
    sjw = SW.T  # s_jᵀw_i
    b = (sw[:, None] - c * sjw) / q
    a = sjw - c * b
    removed = sHs + (sHs[:, None] - 2 * c * SHS + c**2 * sHs) / q
    xHx = wHw[:, None] + a**2 * sHs + b**2 * sHs[:, None] - 2 * a * SHW.T - 2 * b * sHw[:, None] + 2 * a * b * SHS
    rest = xHx + (2 * b * rs[:, None] - rw[:, None])
    outside = (lengths - ww)[:, None] + sjw**2 + q * b**2
    return one_out, H.trace() - removed + (n - k + 2) * rest / outside

r"""A few eigenpairs from one end (or both) of the spectrum of a symmetric operator, by Lanczos with full
orthogonalisation.

    A v = θ v   for the k wanted θ, until   ‖A v − θ v‖ ≤ tol·|θ|   for every one of them

The basis is one (m, n) tensor on the operator's device; only the projected matrix, m × m, reaches the host. Every
product is followed by a test, so that no product is made once the target is met. When the basis is full, a thick
restart keeps the wanted Ritz vectors and goes on, which bounds the memory and changes the cost but not the answer.

References: Lanczos (1950); Wu and Simon (2000), thick restart; Stewart (2001), Krylov–Schur; Parlett (1998), sections
4.5 and 11.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analyses.eigenpairs import Eigenpairs, eigenpairs, rayleigh
from analyses.krylov_basis import KrylovBasis
from analyses.krylov_decomposition import KrylovDecomposition, RitzPairs
from analyses.repeated_eigenvalues import search_for_copies
from analyses.scaled_operator import ScaledOperator
from analyses.spectrum_end import MET, SpectrumEnd, Which

NEARLY = 3  # times the tolerance: starting vectors further than this from invariant serve better as their sum alone
NEAR = 30  # times the tolerance: from here on no product is begun before the last one's residuals are known
INTERRUPTED = "interrupted"
IDLE = 50  # restarts without progress after which the next ones promise none either
CAUTION = 4  # times the products' estimated error: what a residual needs to spare not to be checked by a product
BASIS_BYTES = 4 << 30  # where `max_basis` is not given, the basis grows up to this size before it is restarted


def lanczos(
    A: Any,
    k: int,
    *,
    which: Which = "LA",
    tol: float = 1e-3,
    max_basis: int | None = None,
    multiplicity: bool = False,
    start: Tensor | None = None,
    storage: torch.dtype | None = None,
    sharded: bool = False,
    unseen_distinct: float = 1.0,
    max_matvecs: int = 10_000,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """The k eigenpairs of A at the end of the spectrum that `which` names: LA, SA, LM (largest magnitude) or BE (both
    ends).

    `A`: anything symmetric with `.shape` and `@`, a dense tensor too. `tol`: relative residual ‖Av − θv‖/|θ| of each
    pair; for a θ that is zero to rounding, the residual need only fall to rounding too. `max_basis`: most basis vectors
    held at once (default: all of them). `start`: a vector (n,) of interest to begin from, or vectors (n, p) close to
    the wanted ones. `storage`: dtype the basis is kept in; bfloat16 halves its memory and limits relative residuals to
    some 4e-3. `sharded`: each process of `torch.distributed` keeps its share of the basis; all call alike, with an
    operator that gives all of them the same product. `generator`: draws the starting vector (default: seed 0).

    `multiplicity=False` finds each eigenvalue once, however often it is repeated, as a Krylov space of one vector does;
    `True` searches on, orthogonally to what was found, until copies are found too. Neither ever returns a vector twice.
    A random start may all but lack an eigenvector; that a *distinct* eigenvalue among the k was overlooked so has the
    probability `unseen_distinct` of the result, often 1e-2 when the residuals meet 1e-3. It says nothing of further
    copies of a value found, nor of values nearer to one than half a percent: no single start can tell those apart, and
    `multiplicity=True` looks for them. The search goes on until it is below the argument `unseen_distinct` (one to four
    more products for 1e-3), where it can be known (from a random start, until a restart) and as far as the products'
    rounding lets it fall, some 1e-5 in float32.

    A of any size is searched as A/s (`analyses.scaled_operator`), so that nothing over- or underflows on the way.

    Cost: `matvecs` products: the dimension of the Krylov space, and a few to check the residuals (`verification_matvecs`)
    where the products' own asymmetry does not already vouch for them. Memory: basis and three vectors.
    Ctrl-C during a product returns what has been found, not marked converged. Raises `ValueError` for bad arguments,
    `FloatingPointError` where a product is not finite.
    """
    n = _checked_size(A, k, which, tol, max_basis)
    device = torch.device(getattr(A, "device", "cpu"))
    dtype = torch.promote_types(getattr(A, "dtype", torch.float32), torch.float32)
    most = min(n, max_basis or max(2 * k + 8, BASIS_BYTES // (n * dtype.itemsize)))
    starts = start if start is None or start.ndim == 2 else start[:, None]
    if starts is not None and starts.shape[1] > 1:
        starts = torch.cat([starts.sum(1, keepdim=True), starts[:, :-1]], dim=1)  # the same span, the sum first
    waiting = 1 if starts is None else starts.shape[1]
    basis = KrylovBasis(
        n, min(most, 4 * k + 24) + waiting, dtype=dtype, storage=storage or dtype, device=device, sharded=sharded
    )
    scaled = ScaledOperator(A, watched=True)
    space = KrylovDecomposition(scaled, basis, locked=0, generator=generator or torch.Generator().manual_seed(0))
    space.begin(starts)
    end = SpectrumEnd(k, which, tol / 2 if multiplicity else tol, torch.finfo(dtype).eps)
    with tqdm(desc="lanczos", unit=" products", delay=2, disable=None) as bar:
        search = _Search(end, most, most + waiting, max_matvecs, bar)
        pairs = search.extend(space, functools.partial(_verdict, space=space, end=end, unseen_distinct=unseen_distinct))
        if multiplicity and search.finished:
            return _with_copies(space, pairs, search, tol, in_place=max_basis is not None).times(scaled.scale)
    return _certified(space, pairs, search, in_place=max_basis is not None).times(scaled.scale)


def _verdict(pairs: RitzPairs, *, space: KrylovDecomposition, end: SpectrumEnd, unseen_distinct: float) -> str:
    message = end.verdict(pairs)
    if message == MET and space.unseen(end.hiding_places(pairs)) > max(unseen_distinct, space.unseen_floor()):
        return ""
    return message


class _Search:
    """Extends decompositions within the memory and the products allowed, and counts."""

    def __init__(self, end: SpectrumEnd, most: int, rows: int, max_matvecs: int, bar: tqdm[NoReturn]) -> None:
        self.end, self.most, self.rows, self.max_matvecs, self.bar = end, most, rows, max_matvecs, bar
        self.matvecs = self.restarts = 0
        self.message, self.finished = "", False

    def extend(self, space: KrylovDecomposition, verdict: Callable[[RitzPairs], str]) -> RitzPairs:
        """Extend `space`, restarting it when memory is full, until `verdict` has something to say or the products are
        spent.
        """
        self.finished = False
        most = self.most - space.locked
        far, closest, idle = True, np.inf, 0
        while True:
            try:
                space.extend()
            except KeyboardInterrupt:
                if not space.settle():
                    raise
                self.interrupt()
                return space.ritz(self.end.order)
            self.matvecs += 1
            self.bar.update()
            # Far from the goal the device is not made to wait for the test, which then speaks of one product less.
            ahead = far and space.on_accelerator and space.waiting == 1 and space.size < most
            if space.size == 1 and space.waiting > 1 and space.settle() and space.novelty() > NEARLY * self.end.tol:
                space.collapse()
            if space.settle(behind=int(ahead)) >= (1 if space.locked else self.end.k):
                pairs = space.ritz(self.end.order)
                self.bar.set_postfix_str(self.end.progress(pairs, space.operator.scale), refresh=False)
                self.message = verdict(pairs) or ("" if space.waiting else "the whole space is spanned")
                self.finished = bool(self.message)
                if self.finished:
                    return pairs
                if self.matvecs >= self.max_matvecs:
                    self.message = f"max_matvecs={self.max_matvecs} was reached"
                    return pairs
                distance = self.end.distance(pairs)
                far = bool(distance.max() > NEAR)
                if space.size == most:
                    closest, idle = (distance.max(), 0) if distance.max() < 0.9 * closest else (closest, idle + 1)
                    if idle == IDLE:
                        self.message = (
                            f"stagnated: {IDLE} restarts brought the residuals no closer to tol; "
                            "a larger max_basis or a wider dtype goes further"
                        )
                        return pairs
                    space.cut(pairs.coefficients[:, : self.end.kept(most)])
                    self.restarts += 1
                    pairs = space.ritz(self.end.order)
                space.aim(pairs.coefficients[:, np.flatnonzero(distance > 1)])
            if space.full:
                space.basis.grow(min(2 * space.basis.capacity, self.rows))

    def interrupt(self) -> None:
        """Note that the user stopped the search."""
        self.message, self.finished = INTERRUPTED, False

    def result(
        self,
        end: SpectrumEnd,
        values: np.ndarray,
        residuals: np.ndarray,
        vectors: Tensor,
        checks: int,
        others: RitzPairs | None,
        doubt: float = 0.0,
        unseen_distinct: float = math.nan,
    ) -> Eigenpairs:
        """The pairs found, with the cost and the reason for stopping of this search."""
        message, norm = self.message, float(np.abs(values).max())
        if self.finished and "arithmetic" not in message and (residuals > end.thresholds(values, norm)).any():
            message = (
                "the measured residuals exceed those of the search: the basis is stored too coarsely for tol, "
                "or A is not symmetric"
            )
        return eigenpairs(
            end,
            values,
            residuals,
            vectors,
            matvecs=self.matvecs,
            checks=checks,
            message=message,
            finished=self.finished,
            restarts=self.restarts,
            others=others,
            doubt=doubt,
            unseen_distinct=unseen_distinct,
        )


def _certified(space: KrylovDecomposition, pairs: RitzPairs, search: _Search, *, in_place: bool) -> Eigenpairs:
    """Check the relation that the residuals were computed from, then form the vectors.

    A symmetric matrix and exact products make B symmetric; how far it is from that tells how large the products' errors
    are. Where residuals and CAUTION times that together are within the tolerance, no product could say more. Elsewhere
    (float32 at a tight tolerance, TF32, a basis in low precision, a search cut short) one product checks the relation,
    and where that does not confirm the residuals either, each is measured by a product of its own.
    """
    end, k = search.end, min(search.end.k, space.size)
    coefficients = pairs.coefficients[:, :k]
    doubt, unseen_distinct = CAUTION * space.noise(), space.unseen(end.hiding_places(pairs))
    needed = end.thresholds(pairs.values[:k], float(np.abs(pairs.values).max()))
    if search.finished and (pairs.residuals[:k] + doubt <= needed).all():
        vectors = space.basis.vectors(coefficients, in_place=in_place)
        return search.result(
            end, pairs.values[:k], pairs.residuals[:k], vectors, 0, pairs.beyond(k), doubt, unseen_distinct
        )
    # The columns of the relation's error F enter with random signs: E ‖F S c‖² = ‖F S‖²/k for a unit c.
    signs = np.random.default_rng(0).choice([-1.0, 1.0], k) / np.sqrt(k)
    defect, checks = 0.0, 0
    try:
        if search.message != INTERRUPTED:
            defect, checks = np.sqrt(k) * space.defect(coefficients @ signs), 1
    except KeyboardInterrupt:
        search.interrupt()
    values, residuals = pairs.values[:k], pairs.residuals[:k] + defect
    vectors = space.basis.vectors(coefficients, in_place=in_place)
    if defect > 0.1 * needed.min():
        values, residuals = rayleigh(space.operator, vectors)
        checks += k
    return search.result(end, values, residuals, vectors, checks, pairs.beyond(k), unseen_distinct=unseen_distinct)


def _with_copies(
    space: KrylovDecomposition, pairs: RitzPairs, search: _Search, tol: float, *, in_place: bool
) -> Eigenpairs:
    """Search on for copies; each residual is then measured by a product of its own, since no one relation holds all."""
    rest = None
    try:
        rest = search_for_copies(space, pairs, search.end, search)
    except KeyboardInterrupt:
        search.interrupt()
    vectors = space.basis.vectors(np.eye(search.end.k), in_place=in_place)
    values, residuals = rayleigh(space.operator, vectors)
    return search.result(replace(search.end, tol=tol), values, residuals, vectors, len(values), rest)


def _checked_size(A: Any, k: int, which: str, tol: float, max_basis: int | None) -> int:
    n = A.shape[0]
    if len(A.shape) != 2 or A.shape[1] != n:
        raise ValueError(f"expected a square operator, got shape {tuple(A.shape)}")
    if not 1 <= k <= n:
        raise ValueError(f"expected 1 ≤ k ≤ n = {n} eigenpairs, got k = {k}")
    if which not in get_args(Which):
        raise ValueError(f"expected which among {', '.join(get_args(Which))}, got {which!r}")
    if not tol > 0:
        raise ValueError(f"expected a relative tolerance tol > 0, got {tol}")
    if max_basis is not None and max_basis < min(k + 2, n):
        raise ValueError(f"expected max_basis ≥ k + 2 = {k + 2}, got {max_basis}")
    return n

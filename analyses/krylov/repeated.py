r"""Further copies of repeated eigenvalues, which the Krylov space of one vector cannot contain.

A Krylov space holds one vector of each eigenspace, however large that is. Orthogonally to the vectors X found, A acts
as

    (I − X Xᵀ) A (I − X Xᵀ),

whose spectrum holds the remaining copies: a search there from a fresh random vector finds all second copies at once,
the next search all third ones, and so on until one finds nothing that belongs among the k wanted. Each search costs
about as many products as finding its leading pair does, the last, empty one included.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from analyses.krylov.decomposition import KrylovDecomposition, RitzPairs
from analyses.krylov.spectrum_end import SpectrumEnd

EMPTY = 1e-2  # relative residual at which the leading pair of the complement is known well enough to be ruled out


class Search(Protocol):
    """What extends a decomposition until its verdict says something, and then whether it got there."""

    finished: bool

    def extend(self, space: KrylovDecomposition, verdict: Callable[[RitzPairs], str]) -> RitzPairs:
        """Extend `space` until `verdict(pairs)` is not empty."""


def search_for_copies(
    found: KrylovDecomposition,
    ritz: RitzPairs,
    end: SpectrumEnd,
    search: Search,
) -> RitzPairs | None:
    """The k wanted vectors with copies, as the first k rows of the basis.

    Returns the pairs of the last, empty search: what lies next to the k; `None` where nothing is left to search.
    """
    basis, k = found.basis, end.k
    found.cut(ritz.coefficients[:, :k])
    values = ritz.values[:k].copy()
    while k < basis.n:
        complement = KrylovDecomposition(found.operator, basis, locked=k, generator=found.generator)
        complement.begin(None)
        rest = search.extend(complement, functools.partial(_verdict, known=values, end=end))
        copies = _belonging(rest, values, end)
        if not search.finished or not len(copies):
            return rest
        complement.cut(rest.coefficients[:, copies])
        values = np.concatenate([values, rest.values[copies]])
        best = end.order(values)[:k]
        basis.rotate(np.eye(len(values))[:, best], 0)
        values = values[best]
    return None


def _belonging(pairs: RitzPairs, known: np.ndarray, end: SpectrumEnd) -> np.ndarray:
    """Indices of the pairs that displace one of the known values; one equal to the last of them displaces nothing."""
    merged = np.concatenate([known, pairs.values])
    candidates = np.array([i for i in end.order(merged)[: end.k] if i >= len(known)], dtype=int) - len(known)
    margin = np.maximum(pairs.residuals[candidates], 100 * end.epsilon * np.abs(merged).max())
    displaced = np.setdiff1d(np.arange(len(known)), end.order(merged)[: end.k])
    return np.array(
        [
            i
            for i, room in zip(candidates, margin, strict=True)
            if np.abs(known[displaced] - pairs.values[i]).min(initial=np.inf) > room
        ],
        dtype=int,
    )


def _verdict(pairs: RitzPairs, known: np.ndarray, end: SpectrumEnd) -> str:
    norm = max(np.abs(known).max(), np.abs(pairs.values).max())
    met = pairs.residuals <= end.thresholds(pairs.values, norm)
    copies = _belonging(pairs, known, end)
    if len(copies):
        return "copies found" if met[copies].all() else ""
    leading = slice(0, 2 if end.which == "BE" else 1)
    distance = np.abs(pairs.values[leading, None] - known[None, :]).min(1)
    ruled_out = (pairs.residuals[leading] <= EMPTY * np.abs(pairs.values[leading])) & (
        pairs.residuals[leading] < distance
    )
    return "no further copy" if (ruled_out | met[leading]).all() else ""

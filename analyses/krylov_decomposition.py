r"""The Krylov decomposition that Lanczos extends by one product at a time and a thick restart cuts back.

    A V = V B + v bᵀ,    [V v]ᵀ[V v] = I          V (n, j) the basis, v the next vector, B (j, j), b (j,)

For a symmetric A the matrix B is symmetric up to rounding. It is kept whole, with every Gram–Schmidt coefficient,
rather than as the tridiagonal T it would be in exact arithmetic: then the residual of a Ritz pair (θ, V s), s a unit
eigenvector of (B + Bᵀ)/2,

    ‖A V s − θ V s‖² = ‖(B − θ) s‖² + (bᵀ s)²

holds to rounding whatever the products' own errors were, and its first term shows when the arithmetic, not the basis,
is the limit. A rotation of V keeps the form of the relation (Krylov–Schur: Stewart 2001), which for a symmetric A is
the thick restart of Wu and Simon (2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyses.krylov_basis import KrylovBasis


@dataclass(frozen=True)
class RitzPairs:
    """Eigenpairs of the projected matrix, in the order they are wanted; float64 on the host."""

    values: np.ndarray  # (j,) θ
    coefficients: np.ndarray  # (j, j) s in columns: the Ritz vector is V s
    truncation: np.ndarray  # (j,) |bᵀ s|: what a larger basis would still remove
    rounding: np.ndarray  # (j,) ‖(B − θ) s‖: what only better arithmetic would

    @property
    def residuals(self) -> np.ndarray:
        """(j,) ‖A V s − θ V s‖."""
        return np.hypot(self.truncation, self.rounding)

    def beyond(self, k: int) -> RitzPairs:
        """The pairs after the first k."""
        return RitzPairs(self.values[k:], self.coefficients[:, k:], self.truncation[k:], self.rounding[k:])


class KrylovDecomposition:
    """Rows `locked` … `locked + size − 1` of the basis are V, the next row is v; rows before are vectors kept out of
    V.
    """

    def __init__(self, operator: Any, basis: KrylovBasis, *, locked: int, generator: torch.Generator) -> None:
        self.operator, self.basis, self.generator = operator, basis, generator
        self.locked, self.size = locked, 0
        self._n = basis.rows.shape[1]
        self._matrix = np.zeros((basis.capacity - locked + 1,) * 2)  # B, with b in row `size`
        self.epsilon = torch.finfo(basis.dtype).eps

    @property
    def complete(self) -> bool:
        """Whether V and the locked vectors span everything: no further vector exists."""
        return self.locked + self.size == self._n

    @property
    def full(self) -> bool:
        """Whether there is no room for a further product's vector."""
        return self.locked + self.size + 1 >= self.basis.capacity

    def begin(self, start: Tensor | None) -> None:
        """Take the direction of `start` (n,) as v, or a random one where it is None or lies within the locked
        vectors.
        """
        if start is not None:
            w = start.detach().to(device=self.basis.rows.device, dtype=self.basis.dtype, copy=True)
            length = torch.linalg.vector_norm(w)
            self.basis.project(w, self.locked)
            if float(torch.linalg.vector_norm(w)) > 100 * self.epsilon * float(length):
                self._store(w)
                return
        self._store_random()

    def extend(self) -> None:
        """One product: v joins V, and A v minus its projection on V becomes the next v."""
        row = self.locked + self.size
        w = self.operator @ self.basis.vector(row)
        w = w.to(self.basis.dtype)
        coefficients = self.basis.project(w, row + 1)
        length = torch.linalg.vector_norm(w)
        column = torch.cat([coefficients, length[None]]).to("cpu", torch.float64).numpy()  # one transfer a product
        if not np.isfinite(column).all():
            raise FloatingPointError(f"product {self.size + 1} with the operator holds NaN or Inf; is the loss finite?")
        j = self.size
        self._reserve(j + 2)
        self._matrix[: j + 1, j] = column[self.locked : -1]
        self.size += 1
        # A remainder at rounding level means that V is invariant: normalised, it would be noise inside V.
        if column[-1] > 10 * self.epsilon * np.linalg.norm(column[:-1]) and not self.complete:
            self._matrix[self.size, j] = column[-1]
            self._store(w)
        elif not self.complete:
            self._store_random()

    def ritz(self, order: Any) -> RitzPairs:
        """Rayleigh–Ritz on V; `order(values)` are the indices of the values from the most to the least wanted."""
        j = self.size
        matrix, tail = self._matrix[:j, :j], self._matrix[j, :j]
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        chosen = order(values)
        values, vectors = values[chosen], vectors[:, chosen]
        rounding = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
        return RitzPairs(values, vectors, np.abs(tail @ vectors), rounding)

    def cut(self, coefficients: np.ndarray) -> None:
        """Thick restart: keep V S for S (j, l) with orthonormal columns; v stays."""
        j, kept = coefficients.shape
        matrix, tail = self._matrix[:j, :j].copy(), self._matrix[j, :j].copy()
        self.basis.rotate(coefficients, self.locked)
        if not self.complete:
            self.basis.rows[self.locked + kept] = self.basis.rows[self.locked + j]
        self._matrix[:] = 0
        self._matrix[:kept, :kept] = coefficients.T @ matrix @ coefficients
        self._matrix[kept, :kept] = tail @ coefficients
        self.size = kept

    def defect(self, coefficients: np.ndarray) -> float:
        """‖A V y − V B y − v bᵀy‖ for y (j,): how far the relation itself is from true. Cost: one product."""
        j = self.size
        w = (self.operator @ self._ritz_vector(coefficients)).to(self.basis.dtype)
        rows = np.zeros(self.locked + j + (0 if self.complete else 1))
        rows[self.locked :] = (self._matrix[: len(rows) - self.locked, :j]) @ coefficients
        self.basis.subtract(w, torch.as_tensor(rows, dtype=w.dtype, device=w.device))
        return float(torch.linalg.vector_norm(w))

    def _ritz_vector(self, coefficients: np.ndarray) -> Tensor:
        return self.basis.combine(np.concatenate([np.zeros(self.locked), coefficients]))

    def _reserve(self, rows: int) -> None:
        if rows > self._matrix.shape[0]:
            grown = np.zeros((2 * rows, 2 * rows))
            grown[: self._matrix.shape[0], : self._matrix.shape[1]] = self._matrix
            self._matrix = grown

    def _store(self, w: Tensor) -> None:
        self.basis.rows[self.locked + self.size] = w.div_(torch.linalg.vector_norm(w))

    def _store_random(self) -> None:
        drawn = torch.randn(self._n, generator=self.generator, dtype=self.basis.dtype, device=self.generator.device)
        w = drawn.to(device=self.basis.rows.device)
        self.basis.project(w, self.locked + self.size)
        self.basis.project(w.div_(torch.linalg.vector_norm(w)), self.locked + self.size)
        self._store(w)

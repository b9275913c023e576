r"""An orthonormal basis kept as one (m, n) tensor on the operator's device, a vector a row.

    project:  h = V w,  w ← w − Vᵀ h,   twice     (classical Gram–Schmidt; "twice is enough", Giraud et al. 2005)
    rotate:   V ← Sᵀ V                            (thick restart), in column chunks, so that nothing of size n is
    allocated

Each pass is two matrix–vector products whatever the number of vectors, and nothing here waits for the device. In
bfloat16 storage a vector is rounded to 8 bits: memory halves, vectors are orthonormal to about 4e-3, and sums still run
in the operator's precision.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 18  # columns worked on at a time where a temporary is needed: 2 MB a vector in float64


class KrylovBasis:
    """Room for `capacity` vectors of length `n`, computed with in `dtype` and kept in `storage`."""

    def __init__(
        self, n: int, capacity: int, *, dtype: torch.dtype, storage: torch.dtype, device: torch.device
    ) -> None:
        self.dtype = dtype
        self.rows = torch.empty((capacity, n), dtype=storage, device=device)

    @property
    def capacity(self) -> int:
        """Vectors there is room for."""
        return self.rows.shape[0]

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` vectors; those held are kept."""
        rows = torch.empty((capacity, self.rows.shape[1]), dtype=self.rows.dtype, device=self.rows.device)
        rows[: self.capacity] = self.rows
        self.rows = rows

    def vector(self, row: int) -> Tensor:
        """Row `row` in the computing precision: (n,)."""
        return self.rows[row].to(self.dtype)

    def project(self, w: Tensor, count: int) -> Tensor:
        """Orthogonalise w (n,) in place against the first `count` rows; returns the coefficients removed, (count,)."""
        coefficients = torch.zeros(count, dtype=self.dtype, device=w.device)
        for _ in range(2 if count else 0):
            step = self._dot(w, count)
            self.subtract(w, step)
            coefficients += step
        return coefficients

    def subtract(self, w: Tensor, coefficients: Tensor) -> None:
        """w ← w − Vᵀ c in place, c (count,) over the first rows."""
        count = coefficients.shape[0]
        for columns in self._chunks():
            w[columns].addmv_(self.rows[:count, columns].to(self.dtype).T, coefficients, alpha=-1)

    def combine(self, coefficients: np.ndarray) -> Tensor:
        """Σ_i c_i v_i over the first rows: (n,)."""
        total = torch.zeros(self.rows.shape[1], dtype=self.dtype, device=self.rows.device)
        self.subtract(total, -self._small(coefficients))
        return total

    def vectors(self, coefficients: np.ndarray, *, in_place: bool) -> Tensor:
        """V S over the first rows, orthonormal columns (n, l) in the computing precision; the basis itself is given up.

        `in_place`: the columns are views of the basis, so that no memory is added; otherwise a copy, so that the basis
        can be freed.
        """
        if self.rows.dtype == self.dtype:
            self.rotate(coefficients, 0)
            rows = self.rows[: coefficients.shape[1]]
            return (rows if in_place else rows.clone()).T
        rows = torch.stack([self.combine(column) for column in coefficients.T])
        lower = torch.linalg.cholesky(rows @ rows.T)  # rounded vectors are orthonormal only to their precision
        return torch.linalg.solve_triangular(lower, rows, upper=False).T

    def rotate(self, coefficients: np.ndarray, first: int) -> None:
        """Rows first … first+l−1 become Sᵀ V[first : first+count], in place; S is `coefficients`, (count, l), l ≤
        count.
        """
        count, kept = coefficients.shape
        small = self._small(coefficients).T
        for columns in self._chunks(always=True):
            block = self.rows[first : first + count, columns].to(self.dtype)
            self.rows[first : first + kept, columns] = (small @ block).to(self.rows.dtype)

    def _dot(self, w: Tensor, count: int) -> Tensor:
        if self.rows.dtype == self.dtype:
            return self.rows[:count] @ w
        total = torch.zeros(count, dtype=self.dtype, device=w.device)
        for columns in self._chunks():
            total += self.rows[:count, columns].to(self.dtype) @ w[columns]
        return total

    def _chunks(self, *, always: bool = False) -> list[slice]:
        n = self.rows.shape[1]
        if self.rows.dtype == self.dtype and not always:
            return [slice(0, n)]
        return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]

    def _small(self, coefficients: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(coefficients), dtype=self.dtype, device=self.rows.device)

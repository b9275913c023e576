r"""An orthonormal basis kept as one (m, n) tensor on the operator's device, a vector a row.

    project:  h = V w,  w ← w − Vᵀ h,   twice     (classical Gram–Schmidt; "twice is enough", Giraud et al. 2005)
    rotate:   V ← Sᵀ V                            (thick restart), in column chunks, so that nothing of size n is made

Each pass is two matrix–vector products whatever the number of vectors, and nothing here waits for the device. In
bfloat16 storage a vector is rounded to 8 bits: memory halves, vectors are orthonormal to about 4e-3, and sums still run
in the operator's precision. Sharded over the processes of `torch.distributed`, each keeps its share of the columns, and
a pass exchanges m numbers; vectors outside the basis are whole in every process.

Sums over n run in chunks added up in float64: in float32 alone the norm of a vector of 36 million is wrong by 2e-5.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, distributed

CPU_CHUNK = 1 << 14  # columns worked on at a time: they stay in the cache, and short sums stay exact
DEVICE_CHUNK = 1 << 22  # accelerators sum in trees: only the temporaries need bounding


class KrylovBasis:
    """Room for `capacity` vectors of length `n`, computed with in `dtype` and kept in `storage`.

    A vector outside that is worked on by the methods is its own share, as `share` takes it from a whole one.
    """

    def __init__(
        self,
        n: int,
        capacity: int,
        *,
        dtype: torch.dtype,
        storage: torch.dtype,
        device: torch.device,
        sharded: bool = False,
    ) -> None:
        self.n, self.dtype, self.device, self.sharded = n, dtype, device, sharded
        rank, processes = (distributed.get_rank(), distributed.get_world_size()) if sharded else (0, 1)
        self._wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self._columns = slice(n * rank // processes, n * (rank + 1) // processes)
        width = self._columns.stop - self._columns.start
        self.rows = torch.empty((capacity, width), dtype=storage, device=device)

    @property
    def capacity(self) -> int:
        """Vectors there is room for."""
        return self.rows.shape[0]

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` vectors; those held are kept."""
        rows = torch.empty((capacity, self.rows.shape[1]), dtype=self.rows.dtype, device=self.device)
        rows[: self.capacity] = self.rows
        self.rows = rows

    def share(self, vector: Tensor) -> Tensor:
        """The part of this process of a whole vector (n,), in the computing precision; a view where it can be."""
        return vector.to(device=self.device, dtype=self.dtype)[self._columns]

    def vector(self, row: int) -> Tensor:
        """Row `row`, whole, in the computing precision: (n,)."""
        return self._whole(self.rows[row].to(self.dtype))

    def norm(self, w: Tensor) -> Tensor:
        """‖w‖ as a scalar on the device."""
        squares = [torch.linalg.vector_norm(w[columns]).to(self._wide) ** 2 for columns in self._chunks()]
        return self._sum(torch.stack(squares).sum()).sqrt().to(self.dtype)

    def store(self, row: int, w: Tensor) -> None:
        """Let row `row` be w."""
        self.rows[row] = w

    def project(self, w: Tensor, count: int) -> Tensor:
        """Orthogonalise w in place against the first `count` rows; returns the coefficients removed, (count,)."""
        coefficients = torch.zeros(count, dtype=self.dtype, device=w.device)
        for _ in range(2 if count else 0):
            step = self._sum(self._dot(w, count))
            self.subtract(w, step)
            coefficients += step
        return coefficients

    def subtract(self, w: Tensor, coefficients: Tensor) -> None:
        """w ← w − Vᵀ c in place, c (count,) over the first rows."""
        count = coefficients.shape[0]
        for columns in self._chunks():
            w[columns].addmv_(self.rows[:count, columns].to(self.dtype).T, coefficients, alpha=-1)

    def combine(self, coefficients: np.ndarray) -> Tensor:
        """Σ_i c_i v_i over the first rows, whole: (n,)."""
        total = torch.zeros(self.rows.shape[1], dtype=self.dtype, device=self.device)
        self.subtract(total, -self._small(coefficients))
        return self._whole(total)

    def vectors(self, coefficients: np.ndarray, *, in_place: bool) -> Tensor:
        """V S over the first rows, orthonormal columns (n, l) in the computing precision; the basis itself is given up.

        `in_place`: the columns are views of the basis, so that no memory is added; otherwise a copy, so that the basis
        can be freed.
        """
        if self.rows.dtype == self.dtype and not self.sharded:
            self.rotate(coefficients, 0)
            rows = self.rows[: coefficients.shape[1]]
            return (rows if in_place else rows.clone()).T
        rows = torch.stack([self.combine(column) for column in coefficients.T])
        if self.rows.dtype == self.dtype:
            return rows.T
        lower = torch.linalg.cholesky(rows @ rows.T)  # rounded vectors are orthonormal only to their precision
        return torch.linalg.solve_triangular(lower, rows, upper=False).T

    def rotate(self, coefficients: np.ndarray, first: int) -> None:
        """Rows first … first+l−1 become Sᵀ V[first : first+count], in place; S is `coefficients`, (count, l)."""
        count, kept = coefficients.shape
        small = self._small(coefficients).T
        for columns in self._chunks():
            block = self.rows[first : first + count, columns].to(self.dtype)
            self.rows[first : first + kept, columns] = (small @ block).to(self.rows.dtype)

    def move(self, start: int, to: int, count: int) -> None:
        """Copy `count` rows from `start` to an earlier place, `to`."""
        for row in range(count):
            self.rows[to + row] = self.rows[start + row]

    def _dot(self, w: Tensor, count: int) -> Tensor:
        total = torch.zeros(count, dtype=self._wide, device=w.device)
        for columns in self._chunks():
            total += self.rows[:count, columns].to(self.dtype) @ w[columns]
        return total.to(self.dtype)

    def _chunks(self) -> list[slice]:
        width, chunk = self.rows.shape[1], CPU_CHUNK if self.device.type == "cpu" else DEVICE_CHUNK
        return [slice(start, min(start + chunk, width)) for start in range(0, width, chunk)]

    def _small(self, coefficients: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(coefficients), dtype=self.dtype, device=self.device)

    def _sum(self, part: Tensor) -> Tensor:
        if self.sharded:
            distributed.all_reduce(part)
        return part

    def _whole(self, part: Tensor) -> Tensor:
        if not self.sharded:
            return part
        whole = torch.zeros(self.n, dtype=self.dtype, device=self.device)
        whole[self._columns] = part
        return self._sum(whole)

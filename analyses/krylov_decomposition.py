r"""The Krylov decomposition that Lanczos extends by one product at a time and a thick restart cuts back.

    A V = V B + P C,    [V P]ᵀ[V P] = I        V (n, j) the basis, P (n, p) the vectors waiting to join it

Beginning from one vector p is 1 and this is Lanczos; beginning from several it is its band form (Ruhe 1979), in which a
waiting vector that turns out to lie in V is dropped. For a symmetric A the matrix B is symmetric up to rounding. It is
kept whole, with every Gram–Schmidt coefficient, rather than as the band it would be in exact arithmetic: then the
residual of a Ritz pair (θ, V s), s a unit eigenvector of (B + Bᵀ)/2,

    ‖A V s − θ V s‖² = ‖(B − θ) s‖² + ‖C s‖²

holds to rounding whatever the products' own errors were, and its first term shows when the arithmetic, not the basis,
is the limit. A rotation of V keeps the form of the relation (Krylov–Schur: Stewart 2001), which for a symmetric A is
the thick restart of Wu and Simon (2000).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analyses.krylov_basis import KrylovBasis
from analyses.scaled_operator import ScaledOperator
from analyses.unseen_eigenvalues import probability_unseen

FEIGNED = (
    100  # times the relative error of a product: a probability of having overlooked something that errors can feign
)
FEWEST = 4  # products from which their errors are estimated: six differences


@dataclass(frozen=True)
class RitzPairs:
    """Eigenpairs of the projected matrix, in the order they are wanted; float64 on the host."""

    values: np.ndarray  # (j,) θ
    coefficients: np.ndarray  # (j, j) s in columns: the Ritz vector is V s
    truncation: np.ndarray  # (j,) ‖C s‖: what a larger basis would still remove
    rounding: np.ndarray  # (j,) ‖(B − θ) s‖: what only better arithmetic would

    @property
    def residuals(self) -> np.ndarray:
        """(j,) ‖A V s − θ V s‖."""
        return np.hypot(self.truncation, self.rounding)

    def beyond(self, k: int) -> RitzPairs:
        """The pairs after the first k."""
        return RitzPairs(self.values[k:], self.coefficients[:, k:], self.truncation[k:], self.rounding[k:])


class KrylovDecomposition:
    """Rows of the basis: `locked` vectors kept out of V, then the `size` vectors of V, then the `waiting` of P."""

    def __init__(
        self, operator: ScaledOperator, basis: KrylovBasis, *, locked: int, generator: torch.Generator
    ) -> None:
        self.operator, self.basis, self.generator = operator, basis, generator
        self.locked = locked
        self.size = self.waiting = 0
        self.random_start = False  # V begins with a random vector, and no restart has turned it
        self._n = basis.n
        self._matrix = np.zeros((basis.capacity - locked + 1,) * 2)  # B, and C in the `waiting` rows below it
        self._unread: list[_Column] = []  # of the products whose coefficients the host has not seen yet
        self.epsilon = torch.finfo(basis.dtype).eps

    @property
    def on_accelerator(self) -> bool:
        """Whether the host runs ahead of the device that makes the products."""
        return self.basis.device.type == "cuda"

    @property
    def complete(self) -> bool:
        """Whether V and the locked vectors span everything: no further vector exists."""
        return self.locked + self.size == self._n

    @property
    def full(self) -> bool:
        """Whether there is no room for a further product's vector."""
        return self._rows() + 1 > self.basis.capacity

    def begin(self, start: Tensor | None) -> None:
        """Let the columns of `start` (n, p) wait, those within the locked vectors or each other left out.

        With none left, or without a start, a random vector waits.
        """
        self.random_start = start is None
        for column in () if start is None else start.T:
            w = self.basis.share(column.detach()).clone()
            length = float(self.basis.norm(w))
            self.basis.project(w, self._rows())
            if float(self.basis.norm(w)) > 1e4 * self.epsilon * length and not self._spanned():
                self._wait(w)
        if not self.waiting:
            self._wait(self._random())

    def extend(self) -> None:
        """One product: the first waiting vector joins V, and what its image adds waits in turn.

        The coefficients are on their way to the host; `settle` receives them.
        """
        w = self._image(self.basis.vector(self.locked + self.size))
        coefficients = self.basis.project(w, self._rows())
        length = self.basis.norm(w)
        self.size += 1
        self.waiting -= 1
        self._unread.append(_Column(torch.cat([coefficients, length[None]])))
        if not self._spanned():
            self._wait(w, length)

    def settle(self, *, behind: int = 0) -> int:
        """Receive the coefficients of all products but the last `behind`; returns how many columns of B are known.

        Waiting for a product's coefficients stops the device between products; reading one product behind does not.
        """
        while len(self._unread) > behind:
            column = self._unread.pop(0).read()
            j = self.size - len(self._unread) - 1
            if not np.isfinite(column).all():
                raise FloatingPointError(f"product {j + 1} with the operator holds NaN or Inf; is the loss finite?")
            self.operator.seen(zero=not column.any())
            rows = len(column) - 1 - self.locked
            self._reserve(rows + 1)
            self._matrix[:rows, j] = column[self.locked : -1]
            # A remainder at rounding level adds nothing to V: normalised, it would be noise inside V.
            if column[-1] > 10 * self.epsilon * np.linalg.norm(column[:-1]):
                self._matrix[rows, j] = column[-1]
            elif self.locked + rows < self._n:
                self._unread.clear()  # products made with that noise meanwhile
                self.size = j + 1
                self.waiting = rows - self.size
                if not self.waiting and not self.complete:
                    self._wait(self._random())
        return self.size - len(self._unread)

    def ritz(self, order: Callable[[np.ndarray], np.ndarray]) -> RitzPairs:
        """Rayleigh–Ritz on the settled part of V; `order(values)` are indices from the most to the least wanted."""
        matrix, tail = self._parts()
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        chosen = order(values)
        values, vectors = values[chosen], vectors[:, chosen]
        rounding = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
        return RitzPairs(values, vectors, np.linalg.norm(tail @ vectors, axis=0), rounding)

    def aim(self, coefficients: np.ndarray) -> None:
        """Turn P within its span so that its first vector carries the most of the residuals of V S."""
        if self.waiting < 2:
            return
        _, tail = self._parts()
        turn = np.linalg.svd(tail @ coefficients)[0]
        self.basis.rotate(turn, self.locked + self.size)
        self._matrix[self.size : self.size + self.waiting, : self.size] = turn.T @ tail

    def novelty(self) -> float:
        """Of the first product's image, the share outside the vectors begun from: how far they are from invariant."""
        column = self._matrix[: self.size + self.waiting, 0]
        return float(np.abs(column[-1]) / np.linalg.norm(column).clip(np.finfo(float).tiny))

    def collapse(self) -> None:
        """After one product, let only what it left over wait: from here on the space is that of the first vector."""
        self.aim(np.ones((1, 1)))
        self.waiting = min(self.waiting, 1)

    def cut(self, coefficients: np.ndarray) -> None:
        """Thick restart: keep V S for S (j, l) with orthonormal columns; P stays."""
        matrix, tail = self._parts()
        j, kept = coefficients.shape
        self.random_start = False
        self.basis.rotate(coefficients, self.locked)
        self.basis.move(self.locked + j, self.locked + kept, self.waiting)
        self._unread.clear()
        self._matrix[:] = 0
        self._matrix[:kept, :kept] = coefficients.T @ matrix @ coefficients
        self._matrix[kept : kept + self.waiting, :kept] = tail @ coefficients
        self.size = kept

    def noise(self) -> float:
        """What the products made show of their own errors e_j, without another one: an estimate of ‖e_j‖.

        (B − Bᵀ)_ij = v_i·e_j − v_j·e_i, whose variance is 2‖e‖²/n for errors that know nothing of V. The rounding of the
        inner products themselves counts in, which makes it too large for long vectors. Infinite where too few products
        were made to tell, and where the basis is kept coarser than it was computed.
        """
        matrix, _ = self._parts()
        j = matrix.shape[0]
        if j < FEWEST or self.basis.rows.dtype != self.basis.dtype:
            return np.inf
        return float(np.sqrt(self._n * np.sum((matrix - matrix.T) ** 2) / (2 * j * (j - 1))))

    def unseen(self, points: np.ndarray) -> float:
        """The probability that an eigenvalue at one of `points` went unseen; NaN where the start was not random."""
        if not self.random_start:
            return math.nan
        matrix, tail = self._parts()
        return probability_unseen((matrix + matrix.T) / 2, tail.sum(0), self._n - self.locked, points)

    def unseen_floor(self) -> float:
        """Below this `unseen` does not fall: in the projected matrix the products' errors look like a share of the start."""
        matrix, _ = self._parts()
        error = self.noise() / np.linalg.norm(matrix, 2).clip(np.finfo(float).tiny) if len(matrix) >= FEWEST else 0.0
        return float(FEIGNED * max(self.epsilon, error))

    def defect(self, coefficients: np.ndarray) -> float:
        """‖A V y − V B y − P C y‖ for y (j,): how far the relation itself is from true. Cost: one product."""
        w = self._image(self.basis.combine(np.concatenate([np.zeros(self.locked), coefficients])))
        relation = np.concatenate(self._parts()) @ coefficients
        known = np.concatenate([np.zeros(self.locked), relation])
        self.basis.subtract(w, torch.as_tensor(known, dtype=w.dtype, device=w.device))
        return float(self.basis.norm(w))

    def _image(self, vector: Tensor) -> Tensor:
        return self.basis.share(self.operator @ vector)  # fresh: what follows works in place

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """B and C of the settled columns."""
        j = self.size - len(self._unread)
        return self._matrix[:j, :j].copy(), self._matrix[j : j + self.waiting, :j].copy()

    def _rows(self) -> int:
        return self.locked + self.size + self.waiting

    def _spanned(self) -> bool:
        return self._rows() >= self._n

    def _reserve(self, rows: int) -> None:
        if rows > self._matrix.shape[0]:
            grown = np.zeros((2 * rows, 2 * rows))
            grown[: self._matrix.shape[0], : self._matrix.shape[1]] = self._matrix
            self._matrix = grown

    def _wait(self, w: Tensor, length: Tensor | None = None) -> None:
        self.basis.store(self._rows(), w.div_(self.basis.norm(w) if length is None else length))
        self.waiting += 1

    def _random(self) -> Tensor:
        drawn = torch.randn(self._n, generator=self.generator, dtype=self.basis.dtype, device=self.generator.device)
        w = self.basis.share(drawn)
        self.basis.project(w, self._rows())
        self.basis.project(w.div_(self.basis.norm(w)), self._rows())
        return w


class _Column:
    """One product's coefficients on their way from the device to the host."""

    def __init__(self, column: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if column.device.type != "cuda":
            self._host = column.cpu()
            return
        self._host = torch.empty(column.shape, dtype=column.dtype, pin_memory=True)
        self._host.copy_(column, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def read(self) -> np.ndarray:
        """The coefficients in float64, once they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.to(torch.float64).numpy()

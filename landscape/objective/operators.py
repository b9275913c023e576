r"""A symmetric matrix that is only ever multiplied by vectors, with one operator, `@`.

(A @ v) for v of shape (n,) or (n, k);  A.shape, A.dtype, A.device;  A.to_scipy();  A.dense() for small n
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DENSE = 20_000  # rows: 3.2 GB in float64


class LinearOperator(abc.ABC):
    """A symmetric operator Rⁿ → Rⁿ; a concrete class says how to multiply a block (n, k)."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (size, size)
        self.dtype = dtype
        self.device = device

    @property
    def way(self) -> str:
        """How products are formed, where there is a choice."""
        return "as given"

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """A v, or A V column by column; a vector of another length raises `ValueError`."""
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.shape[1]:
            raise ValueError(
                f"expected a vector of shape ({self.shape[1]},) or a block ({self.shape[1]}, k), "
                f"got {tuple(vectors.shape)}"
            )
        block = vectors.detach().to(device=self.device, dtype=self.dtype)
        product = self._multiply(block if block.ndim == 2 else block[:, None])
        return product if vectors.ndim == 2 else product[:, 0]

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """A + B, of operators of one shape."""
        if other.shape != self.shape:
            raise ValueError(f"expected an operator of shape {self.shape}, got {other.shape}")
        return _Derived(self, lambda block: self._multiply(block) + (other @ block).to(block))

    def __mul__(self, factor: float) -> LinearOperator:
        """c A."""
        return _Derived(self, lambda block: factor * self._multiply(block))

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        """−A."""
        return -1.0 * self

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        """A − B."""
        return self + (-other)

    def shifted(self, shift: float) -> LinearOperator:
        """A + c I."""
        return _Derived(self, lambda block: self._multiply(block) + shift * block)

    def deflated(self, vectors: Tensor) -> LinearOperator:
        """(I − Q Qᵀ) A (I − Q Qᵀ) for orthonormal columns Q (n, k): A with those eigenvectors' values set to zero."""
        q = vectors.to(device=self.device, dtype=self.dtype)

        def project(block: Tensor) -> Tensor:
            return block - q @ (q.T @ block)

        return _Derived(self, lambda block: project(self._multiply(project(block))))

    @abc.abstractmethod
    def _multiply(self, block: Tensor) -> Tensor:
        """A @ block for a block (n, k)."""

    def dense(self) -> Tensor:
        """All n² entries, for n up to 20,000; larger ones raise `ValueError`. Cost: n products."""
        if self.shape[0] > DENSE:
            raise ValueError(
                f"expected at most {DENSE} rows, got {self.shape[0]}; ask for eigenvalues or a trace instead"
            )
        return self @ torch.eye(self.shape[0], dtype=self.dtype, device=self.device)

    def to_scipy(self) -> Any:
        """The same operator for `scipy.sparse.linalg`, whose vectors are NumPy arrays on the host."""
        from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator

        def multiply(array: Any) -> Any:
            vectors = torch.as_tensor(array).reshape(self.shape[1], -1)
            return (self @ vectors).cpu().numpy().reshape(array.shape)

        numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return ScipyLinearOperator(self.shape, matvec=multiply, matmat=multiply, dtype=numpy_dtype)


class MatrixOperator(LinearOperator):
    """A symmetric dense matrix (n, n) as an operator."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix.shape[0], matrix.dtype, matrix.device)
        self._matrix = matrix

    def _multiply(self, block: Tensor) -> Tensor:
        return self._matrix @ block


class _Derived(LinearOperator):
    """What a function of blocks says, in the shape, dtype and device of another operator."""

    def __init__(self, base: LinearOperator, multiply: Callable[[Tensor], Tensor]) -> None:
        super().__init__(base.shape[0], base.dtype, base.device)
        self._function = multiply

    def _multiply(self, block: Tensor) -> Tensor:
        return self._function(block)

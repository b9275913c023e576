r"""A symmetric matrix that is only ever multiplied by vectors, with one operator, `@`.

(A @ v) for v of shape (n,) or (n, k);  A.shape, A.dtype, A.device;  A.to_scipy();  A.dense() for small n
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor


class LinearOperator(abc.ABC):
    """A symmetric operator Rⁿ → Rⁿ; a concrete class says how to multiply a block (n, k)."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (size, size)
        self.dtype = dtype
        self.device = device

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

    @abc.abstractmethod
    def _multiply(self, block: Tensor) -> Tensor:
        """A @ block for a block (n, k)."""

    def dense(self) -> Tensor:
        """All n² entries, for n small enough to hold them. Cost: n products."""
        return self @ torch.eye(self.shape[0], dtype=self.dtype, device=self.device)

    def to_scipy(self) -> Any:
        """The same operator for `scipy.sparse.linalg`, whose vectors are NumPy arrays on the host."""
        from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator

        def multiply(array: Any) -> Any:
            vectors = torch.as_tensor(array).reshape(self.shape[1], -1)
            return (self @ vectors).cpu().numpy().reshape(array.shape)

        numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return ScipyLinearOperator(self.shape, matvec=multiply, matmat=multiply, dtype=numpy_dtype)

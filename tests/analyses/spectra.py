"""Symmetric matrices with a prescribed spectrum, and an operator that counts the vectors it is multiplied with."""

import torch
from torch import Tensor


def with_eigenvalues(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """U diag(λ) Uᵀ with U a random rotation, float64."""
    n = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    return (rotation * eigenvalues.double()) @ rotation.T


def flat(n: int = 120) -> Tensor:
    return torch.linspace(-1, 3, n, dtype=torch.float64)


def outliers(n: int = 120) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    bulk = 0.2 + 0.3 * torch.randn(n - 4, generator=generator, dtype=torch.float64)
    return torch.cat([torch.tensor([30.0, 20.0, 10.0, 5.0], dtype=torch.float64), bulk])


def decaying(n: int = 120) -> Tensor:
    return 0.01 + 20 * 0.8 ** torch.arange(n, dtype=torch.float64)


class Counted:
    """A matrix behind `.shape` and `@` that counts products."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.shape, self.dtype, self.device = matrix, matrix.shape, matrix.dtype, matrix.device
        self.products = 0

    def __matmul__(self, vectors: Tensor) -> Tensor:
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        return self.matrix @ vectors

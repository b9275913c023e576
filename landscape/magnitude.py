r"""Lengths of vectors of any size: the squares inside ‖v‖ = √Σ v_i² over- and underflow long before v does.

    ‖v‖ = s ‖v/s‖,   s = 2^⌊log₂ max|v_i|⌋

Dividing by a power of two rounds nothing. In float32 a plain norm is infinite from entries of 1e19 on and loses digits
below 1e-19, zero at 1e-23: the gradient of a loss that somebody has multiplied by 1e20 or 1e-26.
"""

from __future__ import annotations

import torch
from torch import Tensor


def magnitude(values: Tensor, dim: int = -1) -> Tensor:
    """The power of two next below the largest |entry| along `dim` (kept, of size one), float32 at the least.

    At least the smallest normal number; 1 where an entry is not finite, so that dividing hides nothing. The host waits
    for nothing.
    """
    largest = values.abs().amax(dim, keepdim=True)
    largest = largest.to(torch.promote_types(largest.dtype, torch.float32))
    power = torch.exp2(torch.log2(largest).floor()).clamp_min(torch.finfo(largest.dtype).tiny)
    return torch.where(torch.isfinite(largest), power, torch.ones_like(power))


def norm(values: Tensor, dim: int = -1, *, keepdim: bool = False) -> Tensor:
    """‖values‖₂ along `dim`, right wherever the result itself is a number of its dtype, float32 at the least."""
    scale = magnitude(values, dim)
    length = torch.linalg.vector_norm(values / scale, dim=dim, keepdim=True) * scale
    return length if keepdim else length.squeeze(dim)


def directions_of(vectors: Tensor) -> Tensor:
    """Each row of `vectors` (k, n) over its norm; NaN for a row of zeros, which has no direction."""
    scaled = vectors / magnitude(vectors)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)

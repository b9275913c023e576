"""Random probe vectors for an operator: drawn from a generator, placed on the operator's device and in its dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rademacher(A: Any, count: int, generator: torch.Generator) -> Tensor:
    """(n, count) independent signs ±1: of all unit-variance probes those with the least variance of zᵀAz."""
    shape = (A.shape[0], count)
    return _place(torch.randint(0, 2, shape, generator=generator, device=generator.device) * 2 - 1, A)


def gaussian(A: Any, count: int, generator: torch.Generator) -> Tensor:
    """(n, count) independent standard normal numbers, drawn in float64 so that one seed means one set of probes."""
    shape = (A.shape[0], count)
    return _place(torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64), A)


def working_dtype(A: Any) -> torch.dtype:
    """The dtype of A's vectors, float32 at the least."""
    return torch.promote_types(getattr(A, "dtype", torch.float32), torch.float32)


def _place(drawn: Tensor, A: Any) -> Tensor:
    return drawn.to(device=getattr(A, "device", "cpu"), dtype=working_dtype(A))

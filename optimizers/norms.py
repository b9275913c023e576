r"""Norms and inner products over many tensors as over one vector, left on the device.

    ‖x‖ = (Σ_i ‖x_i‖²)^½        ⟨x, y⟩ = Σ_i ⟨x_i, y_i⟩

Sharded tensors (FSDP2's `DTensor`) are reduced over their mesh, each shard once, so every rank gets the norm of the whole.
Half-precision tensors are accumulated in float32. Nothing here waits for the device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor


def shards(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The part of each tensor that lives here: its local shard where it is a `DTensor`, else the tensor itself."""
    return [tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors]


def is_sharded(tensor: Any) -> TypeGuard[Any]:
    """Whether `tensor` is a `DTensor` (known by its interface: importing the class would import torch.distributed)."""
    return hasattr(tensor, "device_mesh")


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors together, a 0-dimensional tensor; 0 for no tensors."""
    if not tensors:
        return torch.zeros(())
    local = shards(tensors)
    accumulator = functools.reduce(torch.promote_types, (_accumulator(tensor.dtype) for tensor in local))
    norms = torch._foreach_norm(local, 2, dtype=accumulator)
    if not any(map(is_sharded, tensors)):
        return torch.linalg.vector_norm(_stack(norms))
    return _sum(tensors, [value.square() for value in norms]).sqrt()


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors of equal shapes, a 0-dimensional tensor; 0 for no tensors."""
    if not left:
        return torch.zeros(())
    products = [_dot(x, y) for x, y in zip(shards(left), shards(right), strict=True)]
    return _sum(left, products)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    accumulator = _accumulator(x.dtype)
    if accumulator != x.dtype:
        return torch.sum(x * y, dtype=accumulator)
    return torch.dot(x.reshape(-1), y.reshape(-1))


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _stack(values: Sequence[Tensor]) -> Tensor:
    # One model may live on several devices and in several dtypes; the first tensor's device holds the result.
    first = values[0]
    return torch.stack([value.to(device=first.device, dtype=first.dtype) for value in values])


def _sum(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The sum of one local value per tensor, those of shards summed over their mesh: one collective per mesh and layout."""
    layouts: dict[Any, list[Tensor]] = {}
    for tensor, value in zip(tensors, values, strict=True):
        layout = (tensor.device_mesh, tensor.placements) if is_sharded(tensor) else None
        layouts.setdefault(layout, []).append(value)
    return _stack([_reduce(layout, _stack(group).sum()) for layout, group in layouts.items()]).sum()


def _reduce(layout: Any, value: Tensor) -> Tensor:
    if layout is None:
        return value
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh, placements = layout
    # A replicated dimension holds the same numbers on each rank: adding them up would count them twice.
    kinds = [Partial() if placement.is_shard() or placement.is_partial() else Replicate() for placement in placements]
    return DTensor.from_local(value, mesh, kinds).full_tensor()

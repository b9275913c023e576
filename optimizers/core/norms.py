r"""Norms and inner products over many tensors as over one vector, left on the device.

    ‖x‖ = (Σ_i ‖x_i‖²)^½        ⟨x, y⟩ = Σ_i ⟨x_i, y_i⟩

Vectors are lists of plain tensors beside their parameters. Where a parameter is sharded (FSDP2's `DTensor`) its tensor is
the local shard, and sums run over the mesh, each shard once: every rank gets the norm of the whole. Half-precision
tensors are accumulated in float32. Nothing here waits for the device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)


def is_sharded(tensor: Any) -> TypeGuard[Any]:
    """Whether `tensor` is a `DTensor` (known by its interface: importing the class would import torch.distributed)."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "device_mesh")


def shards(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor as plain memory: the local shard of a `DTensor`, a dense copy of a sparse tensor, else itself."""
    local = [tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors]
    return [tensor if tensor.layout is torch.strided else tensor.to_dense() for tensor in local]


def shard_of(whole: Tensor, parameter: Tensor) -> Tensor:
    """The part of `whole`, known on every rank, that lies beside this rank's shard of `parameter`; no communication."""
    if not is_sharded(parameter):
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    mesh = parameter.device_mesh
    everywhere = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(mesh, parameter.placements).to_local()


@dataclass
class Gradient:
    """A vector of weight space: `parameters` and, beside each, its part of the vector (its local shard under FSDP2)."""

    parameters: list[Tensor]
    tensors: list[Tensor]
    disposable: bool = False
    """Whether the tensors may be overwritten: nobody needs them afterwards."""

    @functools.cached_property
    def norm(self) -> Tensor:
        """Its global norm, 0-dimensional, on the device; computed once, when it is first asked for."""
        return norm(self.tensors, self.parameters)


NOTHING = Gradient([], [])


def drop(parameters: Sequence[Tensor]) -> None:
    """Forget the gradients of earlier passes."""
    for parameter in parameters:
        parameter.grad = None


def norm(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors together, a 0-dimensional tensor; 0 for no tensors."""
    if not tensors:
        return torch.zeros(())
    dtype = functools.reduce(torch.promote_types, (accumulator(tensor.dtype) for tensor in tensors))
    norms = torch._foreach_norm(list(tensors), 2, dtype=dtype)
    if not any(map(is_sharded, parameters)):
        return torch.linalg.vector_norm(_stack(norms))
    return total([value.square() for value in norms], parameters).sqrt()


def dot(left: Sequence[Tensor], right: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors of equal shapes, a 0-dimensional tensor; 0 for no tensors."""
    return total([_dot(x, y) for x, y in zip(left, right, strict=True)], parameters)


def total(values: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The sum of one local number per parameter, those of shards over their mesh: one collective per mesh and layout."""
    if not values:
        return torch.zeros(())
    layouts: dict[Any, list[Tensor]] = {}
    for parameter, value in zip(parameters, values, strict=True):
        layout = (parameter.device_mesh, parameter.placements) if is_sharded(parameter) else None
        layouts.setdefault(layout, []).append(value)
    return _stack([_reduce(layout, _stack(group).sum()) for layout, group in layouts.items()]).sum()


def inverse(scale: Tensor) -> Tensor:
    """1/scale, and 0 where the scale is 0 (or so small that this is not finite) or not finite."""
    return torch.where(scale.isfinite() & (scale > 0), 1 / scale, 0.0).nan_to_num(posinf=0.0)


def widened(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy in float32 of one in half precision, whose range ends at 65504 and at 6e-8."""
    return tensor.to(accumulator(tensor.dtype))


def add_scaled(tensor: Tensor, other: Tensor, factor: Tensor) -> None:
    """tensor ← tensor + factor · other, in place, with the factor in float32 or wider and one rounding."""
    factor = factor.to(device=tensor.device, dtype=accumulator(tensor.dtype))
    if factor.dtype == tensor.dtype:
        tensor.addcmul_(other, factor)
    else:
        tensor.copy_(torch.addcmul(tensor.to(factor.dtype), other.to(factor.dtype), factor))


def largest(tensors: Sequence[Tensor], share: float, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Masks of this share of all entries, the largest; of numbers ≥ 0. Those that tie with the last are in, too.

    The threshold is bisected: shards and devices have only numbers to add up, and nothing is sorted or gathered.
    """
    high = total([tensor.sum() for tensor in tensors], parameters)
    low, kept = torch.zeros_like(high), share * sum(parameter.numel() for parameter in parameters)
    for _ in range(60):
        middle = (low + high) / 2
        above = total([(tensor >= middle.to(tensor)).sum() for tensor in tensors], parameters)
        low, high = torch.where(above >= kept, middle, low), torch.where(above >= kept, high, middle)
    return [tensor >= low.to(tensor) for tensor in tensors]


def on_host(flag: Tensor) -> bool:
    """Whether reading `flag` waits for nothing: then a branch is cheaper than the pass over memory that avoids it."""
    return flag.device.type == "cpu"


def finite_or_zero(tensors: list[Tensor], finite: Tensor, *, in_place: bool = False) -> list[Tensor]:
    """The tensors, or zeros in their place if not `finite`: a factor 0 is not enough, for 0 · ∞ is not a number."""
    if on_host(finite):
        return tensors if finite else [torch.zeros_like(tensor) for tensor in tensors]
    lost = ~finite  # once for all: each operation is a kernel
    if in_place:
        return [tensor.masked_fill_(lost.to(tensor.device), 0) for tensor in tensors]
    return [tensor.masked_fill(lost.to(tensor.device), 0) for tensor in tensors]


def _dot(x: Tensor, y: Tensor) -> Tensor:
    if (dtype := accumulator(x.dtype)) != x.dtype:
        return x.to(dtype).mul_(y).sum()  # the products too: those of small numbers are 0 in float16
    return torch.dot(x.reshape(-1), y.reshape(-1))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which numbers of `dtype` are summed."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _stack(values: Sequence[Tensor]) -> Tensor:
    # One model may live on several devices and in several dtypes; the first tensor's device holds the result.
    first = values[0]
    return torch.stack([value.to(device=first.device, dtype=first.dtype) for value in values])


def _reduce(layout: Any, value: Tensor) -> Tensor:
    if layout is None:
        return value
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh, placements = layout
    # A replicated dimension holds the same numbers on each rank: adding them up would count them twice.
    kinds = [Replicate() if placement.is_replicate() else Partial() for placement in placements]
    return DTensor.from_local(value, mesh, kinds).full_tensor()

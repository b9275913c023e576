"""Tensors by themselves, in tuples or in dicts: what a model takes and what a loss takes, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """`value` with `function` of each tensor in its place; a list comes back as a tuple."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return tuple(mapped(function, entry) for entry in value)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in `value`."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(entry)


def rows(value: Any) -> int:
    """How many examples a batch has: the length of its first tensor."""
    return len(next(tensors(value)))


def taken(value: Any, index: Tensor | slice) -> Any:
    """The rows `index` of each tensor."""
    return value[index] if isinstance(value, Tensor) else mapped(lambda tensor: tensor[index], value)


def placed(value: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """On the device, floating-point numbers as `dtype`; from pinned memory without waiting."""
    return mapped(
        lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True), value
    )


def equal(one: Any, other: Any) -> bool:
    """Whether two batches are equal to the bit; NaN equals NaN."""
    pairs = list(tensors(one)), list(tensors(other))
    return len(pairs[0]) == len(pairs[1]) and all(
        a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(*pairs, strict=True)
    )

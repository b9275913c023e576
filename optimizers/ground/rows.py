"""Examples in any form: a tensor, or tuples and mappings of tensors, whose rows (dimension 0) are the examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that `inputs` stands for: `model(x)`, `model(*x)` or `model(**x)`."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, tuple) else ((inputs,), {})


def first_tensor(value: Any) -> Tensor | None:
    """The tensor whose rows are counted: of a mapping `labels` or `targets` before others."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = [value[key] for key in ("labels", "targets") if key in value] + list(value.values())
    for entry in value if isinstance(value, tuple | list) else ():
        tensor = first_tensor(entry)
        if tensor is not None:
            return tensor
    return None


def rows_of(value: Any, part: slice | Tensor, rows: int) -> Any:
    """The rows `part` of every tensor that has `rows` rows."""
    if isinstance(value, Tensor):
        if not value.ndim or value.shape[0] != rows:
            return value
        if value.layout == torch.strided:
            return value[part]
        return value.index_select(
            0, part if isinstance(part, Tensor) else torch.arange(rows, device=value.device)[part]
        )
    if isinstance(value, Mapping):
        return {key: rows_of(entry, part, rows) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return tuple(rows_of(entry, part, rows) for entry in value)
    return value

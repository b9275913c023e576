r"""What a retained autograd graph holds: how many bytes it keeps alive, and which operations it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def saved_bytes(outputs: Iterable[Tensor]) -> int:
    """Bytes of all tensors saved for the backward pass of `outputs`, shared storage counted once."""
    storages: dict[int, int] = {}
    for node in _nodes(outputs):
        for name in dir(node):
            if name.startswith("_saved_"):
                for tensor in _tensors(getattr(node, name)):
                    if tensor.layout != torch.strided:  # has no storage of its own: inputs that are there anyway
                        continue
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def convolutional(outputs: Iterable[Tensor]) -> bool:
    """Whether the graph holds a convolution."""
    return any("Convolution" in node.name() for node in _nodes(outputs))


def _nodes(outputs: Iterable[Tensor]) -> Iterator[Any]:
    seen: set[Any] = set()
    pending: list[Any] = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        pending.extend(parent for parent, _ in node.next_functions if parent is not None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from _tensors(entry)

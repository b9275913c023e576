"""A tree of tensors copied to host memory that is allocated once and used again: what a checkpoint costs the training.

CUDA tensors go to pinned memory without waiting for each other; one wait at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.store import tensor_codec
from landscape.store.tree_codec import Tree


class HostCopy:
    """Call it with a tree; the copy it returns is overwritten by the next call."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)

    def __call__(self, tree: Tree) -> Tree:
        """An independent copy of `tree` on the CPU; one tensor in two places stays one."""
        self._used: dict[tuple[Any, ...], int] = defaultdict(int)
        self._copies: dict[Hashable, tuple[Tensor, Tensor]] = {}
        copied = self._copy(tree)
        for device in {source.device for source, _ in self._copies.values() if source.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        self._copies.clear()
        return copied

    def _copy(self, value: Tree) -> Tree:
        if isinstance(value, Tensor):
            return self._tensor(value.detach())
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, Mapping):
            return {key: self._copy(item) for key, item in value.items()}
        if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            return type(value)(self._copy(item) for item in value)
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided or tensor.is_meta:
            return tensor  # no file can hold it, and the writer says so by name
        identity = tensor_codec.identity(tensor)
        if tensor.numel() == 0 or identity not in self._copies:
            # the source is kept with the copy, so that no address is seen twice
            self._copies[identity] = (tensor, self._buffer(tensor).copy_(tensor, non_blocking=tensor.is_cuda))
        return self._copies[identity][1]

    def _buffer(self, tensor: Tensor) -> Tensor:
        key = (tensor.dtype, tensor.shape, tensor.is_cuda)
        buffers, position = self._buffers[key], self._used[key]
        self._used[key] += 1
        if position == len(buffers):
            buffers.append(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda))
        return buffers[position]

"""Running statistics of instance normalisation, which torch writes whatever `track_running_stats` says.

A layer in training mode normalises each example by itself and writes the mean over the batch to the buffers it has; one
that has none writes nothing. So a frozen layer answers None for its buffers while it is in training mode. (Momentum 0
would still write: a mean over rounded copies, and NaN where w + ε overflows.)
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.modules.instancenorm import _InstanceNorm

NAMES = ("running_mean", "running_var")
_LOCK = threading.Lock()
_blocks, _everywhere = 0, 0
_frozen: weakref.WeakKeyDictionary[_InstanceNorm, int] = weakref.WeakKeyDictionary()  # by how many blocks


class _Hidden:
    """A buffer's name on the class while a block is active: torch looks among a layer's buffers only after the class."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, layer: Any, kind: type | None = None) -> Tensor | None:
        buffers = {} if layer is None else layer.__dict__.get("_buffers", {})
        if self._name not in buffers:
            raise AttributeError(self._name)
        held: Tensor | None = buffers[self._name]
        return None if held is not None and layer.training and (_everywhere or layer in _frozen) else held


@contextmanager
def hidden(layers: Iterable[_InstanceNorm] | None) -> Iterator[None]:
    """The buffers of these layers, of all in the process for None, hidden from passes in training mode."""
    chosen = [] if layers is None else list(layers)
    if layers is not None and not chosen:
        yield
        return
    _count(chosen, everywhere=layers is None, by=1)
    try:
        yield
    finally:
        _count(chosen, everywhere=layers is None, by=-1)


def _count(layers: list[_InstanceNorm], *, everywhere: bool, by: int) -> None:
    global _blocks, _everywhere
    with _LOCK:
        if _blocks == 0:
            for name in NAMES:
                setattr(_InstanceNorm, name, _Hidden(name))
        _blocks, _everywhere = _blocks + by, _everywhere + by * everywhere
        for layer in layers:
            _frozen[layer] = _frozen.get(layer, 0) + by
            if not _frozen[layer]:
                del _frozen[layer]
        if _blocks == 0:
            for name in NAMES:
                delattr(_InstanceNorm, name)


@contextmanager
def taken(layers: Iterable[_InstanceNorm]) -> Iterator[None]:
    """The buffers of layers in training mode taken away: compiled graphs look at what a layer holds, not at its class."""
    kept = [
        (layer, name, layer._buffers[name])
        for layer in layers
        for name in NAMES
        if layer.training and layer._buffers.get(name) is not None
    ]
    try:
        for layer, name, _ in kept:
            layer._buffers[name] = None
        yield
    finally:
        for layer, name, buffer in kept:
            layer._buffers[name] = buffer

"""Batch normalisation in the extra passes: batch statistics as in training, running statistics left alone.

The switch is torch's own: a layer in training mode whose `track_running_stats` is False normalises with the batch and
writes to no buffer (`running_mean`, `running_var`, `num_batches_tracked`). Setting the momentum to 0, as public code
does, still counts the batch and loses the momentum when it is done twice.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from optimizers.owners import living


@contextmanager
def frozen_batch_norm(model: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of every batch normalisation (by type, SyncBatchNorm included) of `model`.

    May be nested and repeated; what was frozen before stays frozen after, also when the body raises.
    """
    with frozen(layer for layer in model.modules() if isinstance(layer, _BatchNorm)):
        yield


@contextmanager
def frozen(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Freeze the running statistics of these layers inside the block."""
    tracking = [layer for layer in layers if layer.track_running_stats]
    try:
        for layer in tracking:
            layer.track_running_stats = False
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True


def living_batch_norms() -> weakref.WeakSet[_BatchNorm]:
    """Every batch normalisation layer alive in this process: one without weights owns no parameter to find it by."""
    return weakref.WeakSet(living(_BatchNorm))

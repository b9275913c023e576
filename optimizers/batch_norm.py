"""Batch normalisation in the extra passes: batch statistics as in training, running statistics left alone.

The switch is torch's own: a layer in training mode whose `track_running_stats` is False normalises with the batch and
writes to no buffer (`running_mean`, `running_var`, `num_batches_tracked`). Setting the momentum to 0, as public code
does, still counts the batch and loses the momentum when it is done twice.

An optimizer is given parameters and cannot know the layers: while an extra pass runs, all of the process are frozen.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
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


@contextmanager
def all_frozen(layers_in_graphs: Iterable[_BatchNorm] = ()) -> Iterator[None]:
    """Freeze the running statistics of every layer in the process inside the block, without knowing any.

    The class answers for its layers: no search, so none is missed, be it new, moved, without weights, or hidden from
    the garbage collector. Compiled graphs do not look at the class but at the layers they hold, hence these too.
    """
    global _blocks
    with frozen(layers_in_graphs):
        with _LOCK:
            _blocks += 1
            _BatchNorm.track_running_stats = _NotTracking()  # type: ignore[assignment]
        try:
            yield
        finally:
            with _LOCK:
                _blocks -= 1
                if _blocks == 0:
                    del _BatchNorm.track_running_stats


class _NotTracking:
    """`track_running_stats` while all layers are frozen: False to whoever asks; what is written stays for later."""

    def __get__(self, layer: _BatchNorm | None, kind: type | None = None) -> bool:
        return False

    def __set__(self, layer: _BatchNorm, value: bool) -> None:
        layer.__dict__["track_running_stats"] = value


_LOCK = threading.Lock()
_blocks = 0


class LayersInGraphs:
    """The layers that graphs of torch.compile may hold; looked up again when something has been compiled since."""

    def __init__(self) -> None:
        self._found: weakref.WeakSet[_BatchNorm] = weakref.WeakSet()
        self._compiled: object = None

    def __call__(self, modules: Callable[[], list[nn.Module] | None]) -> Iterable[_BatchNorm]:
        """None before anything was compiled; else every layer alive, or those among `modules` if gc cannot see all.

        Raises `RuntimeError` if it cannot and the modules are not known.
        """
        compiled = _compiled()
        if not compiled:
            return ()
        if self._compiled != compiled:
            if not gc.get_freeze_count():
                self._found = weakref.WeakSet(living(_BatchNorm))
            elif (known := modules()) is not None:
                return [layer for layer in known if isinstance(layer, _BatchNorm)]
            else:
                raise RuntimeError(
                    "expected to find the BatchNorm layers that compiled code may hold, but gc.freeze() hides objects "
                    "from the search, and their statistics would be written twice a step; say which model is trained: "
                    "model=model for the optimizer, or step(optimizers.BatchClosure(model, loss_fn, inputs, targets))"
                )
            self._compiled = compiled
        return self._found

    def __deepcopy__(self, memo: object) -> LayersInGraphs:
        return LayersInGraphs()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return LayersInGraphs, ()


def _compiled() -> object:
    """Something that changes with every compilation by torch.compile; false before the first."""
    frames = sys.modules.get("torch._dynamo.convert_frame")
    if frames is None:
        return 0
    try:
        return sum(frames.FRAME_COMPILE_COUNTER.values()) and (
            frames.FRAME_COUNTER,
            sum(frames.FRAME_COMPILE_COUNTER.values()),
        )
    except AttributeError:  # another version of torch: look each time
        return object()

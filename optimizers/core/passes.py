"""The passes of a step that looks at w first, and what holds in each of them.

Gradients are the pass's own, and statistics of batch normalisation are written by the first pass alone. The switch for
these is torch's own: a layer in training mode whose `track_running_stats` is False normalises with the batch and writes to
no buffer (`running_mean`, `running_var`, `num_batches_tracked`). Instance normalisation writes its own whatever the switch
says, so its layers answer None for them meanwhile. Setting the momentum to 0, as public code does, still counts the batch
and loses the momentum when it is done twice (and writes a mean over rounded copies, NaN where w + ε overflows). An optimizer is given parameters and cannot know the layers:
while an extra pass runs, all of the process are frozen.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from optimizers.core import norms
from optimizers.core.axes import Axis, Direction, Metric, Policy, Reuse
from optimizers.core.owners import living
from optimizers.core.seen import Seen
from optimizers.core.step import Step, move, own_gradients, shift

Normalisation = _BatchNorm | _InstanceNorm


class Whole(Seen, Protocol):
    """A sharpness-aware optimizer with its four choices, as the passes see it."""

    direction: Direction
    metric: Metric
    policy: Policy
    reuse: Reuse | None
    no_sync: Callable[[], AbstractContextManager[Any]] | None

    @property
    def axes(self) -> dict[str, Axis]:
        """The four choices by name."""

    def descent_closure(self, step: Step) -> Callable[[], Any]:
        """The closure to evaluate at w + ε."""


def two_gradients(optimizer: Whole, step: Step, closure: Callable[[], Any] | None, *, gathered: bool = False) -> Any:
    """One pass, or two where the policy says so; leaves the descent direction in `.grad`, returns the first loss.

    `closure` takes the first pass, `step.closure` those that follow. With `gathered`, `closure` completes the gradient
    that is being gathered in `.grad` (None: it is complete); a direction that wants it elsewhere than at w takes it anew.
    """
    direction, policy, reuse = optimizer.direction, optimizer.policy, optimizer.reuse
    active = optimizer.perturbs
    climbs = not policy.reads_gradient and step.climbs and active  # time passes at ρ = 0, too
    local = optimizer.no_sync() if optimizer.no_sync is not None and climbs else nullcontext()
    loss = step.evaluate(closure) if gathered else None
    offset = direction.before_gradient(step) if climbs else None
    elsewhere = None if offset is None else shift(offset)
    del offset
    try:
        if not gathered:
            with local, own_gradients(optimizer.parameters, closure):
                loss = step.evaluate(closure)
        elif elsewhere is not None:
            with optimizer.frozen_batch_norms():
                step.evaluate(step.closure, anew=True)
    finally:
        if elsewhere is not None:
            elsewhere.restore()
    step.clean = step.gradient()
    for axis in optimizer.axes.values():
        axis.observe(step)
    if active and policy.reads_gradient:
        climbs = step.climbs
    if climbs:
        keeps = reuse is not None or policy.reads_both  # the gradient at w is needed beside the one at w + ε
        step.clean.disposable = not keeps
        if reuse is not None:
            reuse.before_ascent(step)
        norms.drop(optimizer.parameters)  # ours now
        if keeps and torch.distributed.is_available() and torch.distributed.is_initialized():
            # data-parallel gradients may be views of communication buffers, which the second pass overwrites
            step.clean.tensors = [gradient.clone() for gradient in step.clean.tensors]
        step.displacement = move(step, optimizer.metric(step, direction(step)))
        if not keeps:
            step.clean.tensors.clear()  # give the memory back before the second pass
        try:
            with optimizer.frozen_batch_norms():
                direction.at_perturbed(step, lambda: step.evaluate(step.closure, anew=True))
                step.evaluate(optimizer.descent_closure(step), anew=True)
        finally:
            step.displacement.restore()
        if policy.reads_both:
            policy.after_ascent(step)
        if reuse is not None:
            reuse.after_ascent(step)
    elif active and reuse is not None:
        reuse.without_ascent(step)
    return loss


@contextmanager
def frozen_batch_norm(model: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of every batch or instance normalisation (by type, SyncBatchNorm included) of `model`.

    May be nested and repeated; what was frozen before stays frozen after, also when the body raises.
    """
    layers = list(model.modules())
    instances = [layer for layer in layers if isinstance(layer, _InstanceNorm)]
    with frozen(layer for layer in layers if isinstance(layer, _BatchNorm)), hidden(instances):
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
def all_frozen(layers_in_graphs: Iterable[Normalisation] = ()) -> Iterator[None]:
    """Freeze the running statistics of every layer in the process inside the block, without knowing any.

    The class answers for its layers: no search, so none is missed, be it new, moved, without weights, or hidden from
    the garbage collector. Compiled graphs do not look at the class but at the layers they hold, hence these too.
    """
    global _blocks
    held = list(layers_in_graphs)
    instances = [layer for layer in held if isinstance(layer, _InstanceNorm)]
    with (
        frozen(layer for layer in held if isinstance(layer, _BatchNorm)),
        taken(instances),
        hidden(None),
    ):
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


_INSTANCE_BUFFERS = ("running_mean", "running_var")
_INSTANCE_LOCK = threading.Lock()
_instance_blocks, _everywhere = 0, 0
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
    global _instance_blocks, _everywhere
    with _INSTANCE_LOCK:
        if _instance_blocks == 0:
            for name in _INSTANCE_BUFFERS:
                setattr(_InstanceNorm, name, _Hidden(name))
        _instance_blocks, _everywhere = _instance_blocks + by, _everywhere + by * everywhere
        for layer in layers:
            _frozen[layer] = _frozen.get(layer, 0) + by
            if not _frozen[layer]:
                del _frozen[layer]
        if _instance_blocks == 0:
            for name in _INSTANCE_BUFFERS:
                delattr(_InstanceNorm, name)


@contextmanager
def taken(layers: Iterable[_InstanceNorm]) -> Iterator[None]:
    """The buffers of layers in training mode taken away: compiled graphs look at what a layer holds, not at its class."""
    kept = [
        (layer, name, layer._buffers[name])
        for layer in layers
        for name in _INSTANCE_BUFFERS
        if layer.training and layer._buffers.get(name) is not None
    ]
    try:
        for layer, name, _ in kept:
            layer._buffers[name] = None
        yield
    finally:
        for layer, name, buffer in kept:
            layer._buffers[name] = buffer


class LayersInGraphs:
    """The layers that graphs of torch.compile may hold; looked up again when something has been compiled since."""

    def __init__(self) -> None:
        self._found: weakref.WeakSet[Normalisation] = weakref.WeakSet()
        self._compiled: object = None

    def __call__(self, modules: Callable[[], list[nn.Module] | None]) -> Iterable[Normalisation]:
        """None before anything was compiled; else every layer alive, or those among `modules` if gc cannot see all.

        Raises `RuntimeError` if it cannot and the modules are not known.
        """
        compiled = _compiled()
        if not compiled:
            return ()
        if self._compiled != compiled:
            if not gc.get_freeze_count():
                self._found = weakref.WeakSet([*living(_BatchNorm), *living(_InstanceNorm)])
            elif (known := modules()) is not None:
                return [layer for layer in known if isinstance(layer, Normalisation)]
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

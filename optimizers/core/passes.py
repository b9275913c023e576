"""The passes of a step that looks at w first, and what holds in each of them.

Gradients are the pass's own, and statistics of batch normalisation are written by the first pass alone. The switch for
these is torch's own: a layer in training mode whose `track_running_stats` is False normalises with the batch and writes to
no buffer (`running_mean`, `running_var`, `num_batches_tracked`); instance normalisation has none, so
`optimizers.core.instance_statistics` hides its buffers. Setting the momentum to 0, as public code does, still
counts the batch and loses the momentum when it is done twice. An optimizer is given parameters and cannot know the layers:
while an extra pass runs, all of the process are frozen.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from optimizers.core import instance_statistics, norms
from optimizers.core.axes import Axis, Direction, Metric, Policy, Reuse
from optimizers.core.owners import living
from optimizers.core.seen import Seen
from optimizers.core.step import Step, move, shift

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
def own_gradients(parameters: Sequence[Tensor], closure: object) -> Iterator[None]:
    """Raise `RuntimeError` if the closure called in this block adds to gradients that were there before.

    Trainers that accumulate call `backward` on some micro-batches first and hand over the last one as the closure. Those
    gradients, taken at other weights, would be added up with its own. So what lies in `.grad` is dropped, and one
    parameter, the smallest, holds zeros instead: a closure that takes them away, or writes to them before its own gradient
    arrives, zeroes its gradients. One that adds to them meant to add to what was there.

    Costs the zeros of one small parameter, and no look at any number.
    """
    present = [parameter for parameter in parameters if parameter.grad is not None]
    if not present or (getattr(closure, "own", False)):
        norms.drop(present)
        yield
        return
    witness = min(present, key=lambda parameter: parameter.numel())
    assert witness.grad is not None
    zeros = torch.zeros_like(witness.grad)
    norms.drop(present)
    witness.grad = zeros
    version, added = zeros._version, False

    def arrives(_: Tensor) -> None:
        nonlocal added
        added = added or (witness.grad is zeros and zeros._version == version)

    # sharded parameters (FSDP2) receive their gradients outside of autograd: there, the same tensor is taken for added to
    hook = witness.register_hook(arrives) if witness.requires_grad and not norms.is_sharded(witness) else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
    kept = witness.grad is zeros and (hook is None or zeros._version == version)
    if added or kept:
        raise RuntimeError(
            "expected a closure that zeroes the gradients and computes those of the whole step, got one that added to "
            "gradients of an earlier backward pass: these were taken at other weights, and a pass at w + ε cannot "
            "repeat what came before. Call optimizer.zero_grad() in the closure and accumulate micro-batches inside it "
            "(or BatchClosure(..., at_once=m)); where a trainer accumulates by itself, step(closure, again=whole) with "
            "the closure of all micro-batches, as optimizers.LightningSteps and optimizers.HuggingFaceSteps do"
        )


@contextmanager
def frozen_batch_norm(model: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of every batch or instance normalisation (by type, SyncBatchNorm included) of `model`.

    May be nested and repeated; what was frozen before stays frozen after, also when the body raises.
    """
    layers = list(model.modules())
    instances = [layer for layer in layers if isinstance(layer, _InstanceNorm)]
    with frozen(layer for layer in layers if isinstance(layer, _BatchNorm)), instance_statistics.hidden(instances):
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
        instance_statistics.taken(instances),
        instance_statistics.hidden(None),
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

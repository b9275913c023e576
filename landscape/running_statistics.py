"""BatchNorm's statistics for an evaluation: gathered at the weights that are evaluated, apart from the model's own.

During training the running averages mix the weights of many steps, and for the one-gradient methods they are gathered
at w + ε. They are training's own, which a checkpoint saves as they are and nothing here changes. An evaluation gathers
others at the clean weights, over training examples, and holds them in the place of the model's own while it lasts (the
MSAM authors gather once, after training; here it is done for every evaluation, so that learning curves are unbiased too).

    statistics = gather(model, batches)
    with holding(model, statistics):
        ...
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from optimizers.ground.rows import arguments

Statistics = dict[str, Tensor]
"""`running_mean` and `running_var` of each layer, under the names they have among the model's buffers."""

NAMES = ("running_mean", "running_var")
_WRITTEN = (*NAMES, "num_batches_tracked")  # by a forward pass in training mode


def tracked(model: nn.Module) -> dict[str, _BatchNorm | _InstanceNorm]:
    """The layers of batch or instance normalisation that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm | _InstanceNorm)
        and module.track_running_stats
        and module.running_mean is not None
    }


@torch.no_grad()
def gather(model: nn.Module, batches: Iterable[Any], *, network: nn.Module | None = None) -> Statistics:
    """Averages over `batches` of inputs at the model's weights; one forward pass, none and nothing without BatchNorm.

    Every batch counts alike, so make them of one size. `network` is what is called where that is not the model itself
    but something around it, autocast say. Only the BatchNorm layers are in training mode meanwhile, so dropout neither
    acts nor draws random numbers; the model, its own statistics included, comes out as it went in.
    """
    if not tracked(model):
        return {}
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with gathering(model) as statistics:
            for inputs in batches:
                args, kwargs = arguments(inputs)
                (model if network is None else network)(*args, **kwargs)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return statistics


@contextmanager
def gathering(model: nn.Module) -> Iterator[Statistics]:
    """Average over the forward passes of the block; what is given to it is filled when the block ends.

    The other modules' modes are the caller's to choose.
    """
    layers = tracked(model)
    kept = {name: (layer.training, layer.momentum, dict(layer._buffers)) for name, layer in layers.items()}
    statistics: Statistics = {}
    hooks = []
    try:
        for layer in layers.values():
            fresh = {key: torch.empty_like(buffer) for key in _WRITTEN if (buffer := layer._buffers[key]) is not None}
            layer._buffers.update(fresh)
            layer.reset_running_stats()
            layer.momentum = None  # torch's way of asking for the cumulative average
            if isinstance(layer, _InstanceNorm):  # which knows no such way
                hooks.append(layer.register_forward_pre_hook(_cumulative()))
            layer.training = True
        yield statistics
        for name, layer in layers.items():
            statistics |= {_key(name, key): layer.get_buffer(key) for key in NAMES}
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.training, layer.momentum, buffers = kept[name]
            layer._buffers.update(buffers)


def _cumulative() -> Callable[[nn.Module, Any], None]:
    """Momentum 1/n in the n-th forward pass."""
    passes = itertools.count(1)

    def before(layer: nn.Module, _: Any) -> None:
        layer.momentum = 1 / next(passes)  # type: ignore[assignment]

    return before


@contextmanager
def holding(model: nn.Module, statistics: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with `statistics` in the place of its own, which it has again afterwards."""
    layers = tracked(model) if statistics else {}
    kept = {name: dict(layer._buffers) for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer._buffers.update({key: statistics[_key(name, key)] for key in NAMES})
        yield
    finally:
        for name, layer in layers.items():
            layer._buffers.update(kept[name])


@torch.no_grad()
def put(model: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Write `statistics` over the model's own."""
    for name, layer in tracked(model).items() if statistics else ():
        for key in NAMES:
            layer.get_buffer(key).copy_(statistics[_key(name, key)])


def own(model: nn.Module) -> Statistics:
    """A copy of those that the model has itself."""
    return {_key(name, key): layer.get_buffer(key).clone() for name, layer in tracked(model).items() for key in NAMES}


def _key(layer: str, buffer: str) -> str:
    return f"{layer}.{buffer}" if layer else buffer

"""Modules whose present mode makes the loss random or changes the model: known by their types, before anything runs."""

from __future__ import annotations

from torch import nn


def refuse_random_modules(model: nn.Module) -> None:
    """Raise `ValueError` for dropout that draws and BatchNorm that updates its statistics in the modules' present
    mode.
    """
    for name, module in model.named_modules():
        if not module.training:
            continue
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            raise ValueError(
                f"{where} is in training mode: its statistics depend on the batch and every evaluation changes them; "
                'use mode="eval" or put the layer in eval mode'
            )
        draws = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        draws |= isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0
        if draws or isinstance(module, nn.RReLU):
            raise ValueError(
                f'{where} is in training mode and makes the loss random; use mode="eval" or put the layer in eval mode'
            )

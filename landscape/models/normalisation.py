"""The normalisation of a convolutional network, by name: batch, group or none."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["batch", "group", "none"]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """BatchNorm, GroupNorm with groups of at least four channels (at most 32 groups), or nothing."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        groups = next(g for g in range(min(32, max(1, channels // 4)), 0, -1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm: expected one of batch, group, none, got {kind!r}")


def he_initialised(model: nn.Module) -> nn.Module:
    """Convolutions normal with variance 2/fan_out, normalisation 1 and 0 (He et al. 2015, eq. 14); in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def check_images(name: str, input_shape: object, smallest: int = 1) -> None:
    """Raise `ValueError` unless one example is an image (channels, height, width) of at least `smallest` pixels a side."""
    shape = tuple(input_shape) if isinstance(input_shape, list | tuple) else (input_shape,)
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise ValueError(
            f"{name}: expected images of shape (channels, height, width), at least {smallest} pixels a side; got {shape}"
        )

"""A small convolutional network for images, with a choice of normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal

from torch import nn

from landscape.models.factory import models
from optimizers.ground.signatures import at_least, between, not_empty


@models.register
def convnet(
    input_shape: Sequence[int],
    classes: int,
    channels: Annotated[Sequence[Annotated[int, at_least(1)]], not_empty] = (16, 32),
    norm: Literal["batch", "group", "none"] = "batch",
    dropout: Annotated[float, between(0, 1)] = 0.0,
) -> nn.Sequential:
    """For each entry of `channels` a 3×3 convolution, normalisation, ReLU and 2×2 pooling; mean and linear head.

    `group` is GroupNorm with groups of four channels (or one group where four does not divide).
    """
    norms: dict[str, Callable[[int], nn.Module]] = {
        "batch": nn.BatchNorm2d,
        "group": lambda width: nn.GroupNorm(width // 4 if width % 4 == 0 else 1, width),
        "none": lambda width: nn.Identity(),
    }
    if norm not in norms:
        raise ValueError(f"norm: expected one of {', '.join(norms)}, got {norm!r}")
    if len(input_shape) != 3:
        raise ValueError(f"convnet: expected images of shape (channels, height, width), got {tuple(input_shape)}")
    if min(input_shape[1:]) < 2 ** len(channels):
        raise ValueError(
            f"channels: each of its {len(channels)} entries halves the image, which has {tuple(input_shape[1:])} pixels; "
            f"expected at most {min(input_shape[1:]).bit_length() - 1}"
        )
    layers: list[nn.Module] = []
    for before, after in pairwise((input_shape[0], *channels)):
        layers += [
            nn.Conv2d(before, after, kernel_size=3, padding=1, bias=norm == "none"),
            norms[norm](after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(channels[-1], classes))

"""A multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from torch import nn

from landscape.models.factory import models
from optimizers.ground.signatures import at_least, between


@models.register
def mlp(
    input_shape: Sequence[int],
    classes: int,
    widths: Sequence[Annotated[int, at_least(1)]] = (64, 64),
    activation: Literal["relu", "tanh", "gelu"] = "relu",
    dropout: Annotated[float, between(0, 1)] = 0.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Flatten, then for each width Linear, BatchNorm if asked, the activation and dropout if any; a linear head."""
    activations = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    if activation not in activations:
        raise ValueError(f"activation: expected one of {', '.join(activations)}, got {activation!r}")
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, width in pairwise((math.prod(input_shape), *widths)):
        layers.append(nn.Linear(fan_in, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(activations[activation]())
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear((math.prod(input_shape), *widths)[-1], classes))
    return nn.Sequential(*layers)

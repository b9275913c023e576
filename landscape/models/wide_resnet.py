r"""Wide residual networks (Zagoruyko and Komodakis 2016), pre-activated: normalise, ReLU, convolve.

    x ← x + conv(ReLU(norm(conv(ReLU(norm(x))))))

Three stages of (depth − 4)/6 blocks with 16k, 32k, 64k channels behind a stem of 16; where the width changes the shortcut
is a 1×1 convolution of the activated input. WRN-28-10 is `wrn28_10`.

https://arxiv.org/abs/1605.07146
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from landscape.models.factory import models
from landscape.models.normalisation import Norm, check_images, he_initialised, norm_layer


class PreActivated(nn.Module):
    """A block whose input is normalised and activated before each convolution."""

    def __init__(self, inside: int, outside: int, stride: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        bias = norm == "none"
        self.norm = norm_layer(norm, inside)
        layers: list[nn.Module] = [nn.Conv2d(inside, outside, 3, stride, 1, bias=bias), norm_layer(norm, outside)]
        layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        self.body = nn.Sequential(*layers, nn.Conv2d(outside, outside, 3, 1, 1, bias=bias))
        changes = stride != 1 or inside != outside
        self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=bias) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) → (N, outside, H/stride, W/stride)."""
        activated = torch.relu(self.norm(x))
        return self.body(activated) + (x if self.shortcut is None else self.shortcut(activated))


def wide(depth: int, widen: float, input_shape: Sequence[int], classes: int, norm: Norm, dropout: float) -> nn.Module:
    """WRN-`depth`-`widen`; `depth` is 6n + 4."""
    check_images(f"wrn{depth}", input_shape, 4)
    widths = [round(16 * widen * 2**stage) for stage in range(3)]
    layers: list[nn.Module] = [nn.Conv2d(input_shape[0], 16, 3, 1, 1, bias=norm == "none")]
    inside = 16
    for stage, width in enumerate(widths):
        for index in range((depth - 4) // 6):
            layers.append(PreActivated(inside, width, 2 if stage > 0 and index == 0 else 1, norm, dropout))
            inside = width
    layers += [norm_layer(norm, inside), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, classes)]
    return he_initialised(nn.Sequential(*layers))


@models.register
def wrn16_4(
    input_shape: Sequence[int], classes: int, widen: float = 4, norm: Norm = "batch", dropout: float = 0.0
) -> nn.Module:
    """WRN-16-4, 2.75 M parameters; a smaller `widen` makes it narrower."""
    return wide(16, widen, input_shape, classes, norm, dropout)


@models.register
def wrn28_10(
    input_shape: Sequence[int], classes: int, widen: float = 10, norm: Norm = "batch", dropout: float = 0.0
) -> nn.Module:
    """WRN-28-10, 36.5 M parameters; a smaller `widen` makes it narrower."""
    return wide(28, widen, input_shape, classes, norm, dropout)


@models.register
def wrn40_2(
    input_shape: Sequence[int], classes: int, widen: float = 2, norm: Norm = "batch", dropout: float = 0.0
) -> nn.Module:
    """WRN-40-2, 2.24 M parameters."""
    return wide(40, widen, input_shape, classes, norm, dropout)


@models.register
def wrn40_10(
    input_shape: Sequence[int], classes: int, widen: float = 10, norm: Norm = "batch", dropout: float = 0.0
) -> nn.Module:
    """WRN-40-10, 55.8 M parameters; a smaller `widen` makes it narrower."""
    return wide(40, widen, input_shape, classes, norm, dropout)

"""VGG-16 with BatchNorm for small images (Simonyan and Zisserman 2015, configuration D): 13 convolutions, one linear head.

https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from landscape.models.factory import models
from landscape.models.normalisation import Norm, check_images, he_initialised, norm_layer

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels at width 64, convolutions before each pooling


@models.register
def vgg16_bn(input_shape: Sequence[int], classes: int, width: int = 64, norm: Norm = "batch") -> nn.Module:
    """VGG-16 with BatchNorm and one linear layer, 14.7 M parameters; images of 32 pixels a side or more."""
    check_images("vgg16_bn", input_shape, 32)
    layers: list[nn.Module] = []
    inside = input_shape[0]
    for channels, count in STAGES:
        outside = max(1, channels * width // 64)
        for _ in range(count):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), norm_layer(norm, outside), nn.ReLU()]
            inside = outside
        layers.append(nn.MaxPool2d(2))
    return he_initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, classes)))

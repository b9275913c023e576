r"""Residual networks (He, Zhang, Ren, Sun 2016): those for small images, and those for ImageNet.

    y = ReLU(x + F(x)),   F two 3×3 convolutions, or in a bottleneck 1×1, 3×3, 1×1

resnet20, 32, 56, 110: section 4.2, three stages of (depth − 2)/6 blocks and 16, 32, 64 channels, shortcuts without
parameters (option A). resnet18 and resnet50 for small images: the ImageNet stages of 64 to 512 channels behind a
3×3 stem without pooling, shortcuts by projection, as the sharpness-aware papers train them on CIFAR. `…_imagenet`: the
7×7 stem and pooling of section 4.1. `width` scales all of them; `skips=False` leaves the shortcuts out (Li et al. 2018).

https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from landscape.models.factory import models
from landscape.models.normalisation import Norm, check_images, he_initialised, norm_layer


class Padded(nn.Module):
    """The shortcut without parameters (option A): every `stride`-th pixel, further channels zero."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = channels // 2, channels - channels // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C + channels, H/stride, W/stride)."""
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """ReLU(shortcut(x) + F(x)); `expansion` 4 makes F a bottleneck, `skips=False` leaves F(x) alone."""

    def __init__(
        self, inside: int, width: int, stride: int, norm: Norm, *, expansion: int, projection: bool, skips: bool
    ) -> None:
        super().__init__()
        outside = width * expansion
        if expansion == 1:
            kernels = [(inside, width, 3, stride), (width, outside, 3, 1)]
        else:  # the stride in the 3×3 convolution, as torchvision and the papers' code have it
            kernels = [(inside, width, 1, 1), (width, width, 3, stride), (width, outside, 1, 1)]
        layers: list[nn.Module] = []
        for before, after, kernel, step in kernels:
            convolution = nn.Conv2d(before, after, kernel, step, kernel // 2, bias=norm == "none")
            layers += [convolution, norm_layer(norm, after), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.skips = skips
        self.shortcut: nn.Module = nn.Identity()
        if skips and (stride != 1 or inside != outside):
            if projection:
                convolution = nn.Conv2d(inside, outside, 1, stride, bias=norm == "none")
                self.shortcut = nn.Sequential(convolution, norm_layer(norm, outside))
            else:
                self.shortcut = Padded(outside - inside, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) → (N, width · expansion, H/stride, W/stride)."""
        y = self.body(x)
        return torch.relu(self.shortcut(x) + y if self.skips else y)


def residual(
    input_shape: Sequence[int],
    classes: int,
    blocks: Sequence[int],
    width: int,
    norm: Norm,
    *,
    expansion: int = 1,
    projection: bool = True,
    skips: bool = True,
    imagenet: bool = False,
) -> nn.Module:
    """A stem, a stage for each entry of `blocks` (the width doubles, the side halves), mean and linear head."""
    check_images("resnet", input_shape, 2 ** (len(blocks) - 1) * (4 if imagenet else 1))
    bias = norm == "none"
    if imagenet:
        convolution = nn.Conv2d(input_shape[0], width, 7, 2, 3, bias=bias)
        layers = [convolution, norm_layer(norm, width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    else:
        layers = [nn.Conv2d(input_shape[0], width, 3, 1, 1, bias=bias), norm_layer(norm, width), nn.ReLU()]
    inside = width
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            inner = width * 2**stage
            layers.append(Block(inside, inner, stride, norm, expansion=expansion, projection=projection, skips=skips))
            inside = inner * expansion
    return he_initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, classes)))


def _small(depth: int, input_shape: Sequence[int], classes: int, width: int, norm: Norm, skips: bool) -> nn.Module:
    return residual(input_shape, classes, [(depth - 2) // 6] * 3, width, norm, projection=False, skips=skips)


@models.register
def resnet20(
    input_shape: Sequence[int], classes: int, width: int = 16, norm: Norm = "batch", skips: bool = True
) -> nn.Module:
    """ResNet-20 for small images, 0.27 M parameters: three stages of 16, 32, 64 channels."""
    return _small(20, input_shape, classes, width, norm, skips)


@models.register
def resnet32(
    input_shape: Sequence[int], classes: int, width: int = 16, norm: Norm = "batch", skips: bool = True
) -> nn.Module:
    """ResNet-32 for small images, 0.46 M parameters."""
    return _small(32, input_shape, classes, width, norm, skips)


@models.register
def resnet56(
    input_shape: Sequence[int], classes: int, width: int = 16, norm: Norm = "batch", skips: bool = True
) -> nn.Module:
    """ResNet-56 for small images, 0.85 M parameters; `skips=False` is the one without shortcuts of Li et al. (2018)."""
    return _small(56, input_shape, classes, width, norm, skips)


@models.register
def resnet110(
    input_shape: Sequence[int], classes: int, width: int = 16, norm: Norm = "batch", skips: bool = True
) -> nn.Module:
    """ResNet-110 for small images, 1.73 M parameters."""
    return _small(110, input_shape, classes, width, norm, skips)


@models.register
def resnet18(input_shape: Sequence[int], classes: int, width: int = 64, norm: Norm = "batch") -> nn.Module:
    """ResNet-18 behind a stem for small images, 11.2 M parameters: four stages of 64 to 512 channels."""
    return residual(input_shape, classes, [2, 2, 2, 2], width, norm)


@models.register
def resnet50(input_shape: Sequence[int], classes: int, width: int = 64, norm: Norm = "batch") -> nn.Module:
    """ResNet-50 behind a stem for small images, 23.5 M parameters: bottlenecks of 256 to 2048 channels."""
    return residual(input_shape, classes, [3, 4, 6, 3], width, norm, expansion=4)


@models.register
def resnet50_imagenet(input_shape: Sequence[int], classes: int, width: int = 64, norm: Norm = "batch") -> nn.Module:
    """ResNet-50 for ImageNet, 25.6 M parameters."""
    return residual(input_shape, classes, [3, 4, 6, 3], width, norm, expansion=4, imagenet=True)


@models.register
def resnet101_imagenet(input_shape: Sequence[int], classes: int, width: int = 64, norm: Norm = "batch") -> nn.Module:
    """ResNet-101 for ImageNet, 44.5 M parameters."""
    return residual(input_shape, classes, [3, 4, 23, 3], width, norm, expansion=4, imagenet=True)


@models.register
def resnet152_imagenet(input_shape: Sequence[int], classes: int, width: int = 64, norm: Norm = "batch") -> nn.Module:
    """ResNet-152 for ImageNet, 60.2 M parameters."""
    return residual(input_shape, classes, [3, 8, 36, 3], width, norm, expansion=4, imagenet=True)

"""Cutout: a square of every image is blotted out with the mean; it may hang over the edge.

DeVries and Taylor (2017), https://arxiv.org/abs/1708.04552: 16 pixels for CIFAR-10, 8 for CIFAR-100.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from landscape.data.augmentation import Augmentation, augmentations, require_images
from optimizers.ground.signatures import at_least


class Cutout(Augmentation):
    """Set a square of `size` pixels around a pixel drawn uniformly to zero, the mean of standardised images."""

    standardised = True

    def __init__(self, size: Annotated[int, at_least(1)] = 16) -> None:
        self.size = size

    def draw(self, examples: int, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Centres (N, 2)."""
        height, width = require_images("cutout", shape)
        rows, columns = (torch.randint(size, (examples,), generator=random) for size in (height, width))
        return torch.stack([rows, columns], 1)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images with their holes."""
        holes = []
        for axis, size in enumerate(images.shape[2:]):
            first, at = drawn[:, axis, None] - self.size // 2, torch.arange(size, device=images.device)
            holes.append((at >= first) & (at < first + self.size))
        return images.masked_fill((holes[0][:, :, None] & holes[1][:, None, :])[:, None], 0)


augmentations.register(Cutout, name="cutout")

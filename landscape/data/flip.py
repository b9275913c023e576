"""Horizontal flip: left and right change places in about half of the images."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from landscape.data.augmentation import Augmentation, augmentations, require_images
from optimizers.ground.signatures import between


class Flip(Augmentation):
    """Mirror an image with this `probability`."""

    def __init__(self, probability: Annotated[float, between(0, 1)] = 0.5) -> None:
        self.probability = probability

    def draw(self, examples: int, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Which are mirrored, (N,)."""
        require_images("flip", shape)
        return torch.rand(examples, generator=random) < self.probability

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images, some of them mirrored."""
        return torch.where(drawn[:, None, None, None], images.flip(3), images)


augmentations.register(Flip, name="flip")

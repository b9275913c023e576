"""Random crop: an image is shifted by up to `padding` pixels each way, what moves in is zero.

He et al. (2016), section 4.2: 4 pixels for CIFAR's 32×32.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import pad

from landscape.data.augmentation import Augmentation, augmentations, require_images
from optimizers.ground.signatures import at_least


class Crop(Augmentation):
    """Pad by `padding` on every side, then take H×W at a place drawn uniformly. Of images standardised already, zero is the mean."""

    def __init__(self, padding: Annotated[int, at_least(1)] = 4) -> None:
        self.padding = padding

    def draw(self, examples: int, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Upper left corners (N, 2)."""
        require_images("crop", shape)
        return torch.randint(2 * self.padding + 1, (examples, 2), generator=random)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The crops."""
        padded = pad(images, [self.padding] * 4)
        windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)  # a view (B, C, 2p+1, 2p+1, H, W)
        return windows[torch.arange(len(images), device=images.device), :, drawn[:, 0], drawn[:, 1]]


augmentations.register(Crop, name="crop")

"""The 1797 handwritten 8×8 digits that come with scikit-learn: real images, no download.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), UCI machine learning repository.
"""

from __future__ import annotations

import functools
from typing import Annotated

import numpy as np
import torch
from sklearn.datasets import load_digits

from landscape.data.dataset import Data, datasets
from landscape.data.split import Split
from landscape.seeding import generator
from optimizers.ground.signatures import at_least


@functools.cache
def _everything() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    return pixels, labels


@datasets.register
def digits(train_examples: Annotated[int, at_least(1)] = 1000) -> Data:
    """1000 training and 797 test images (1, 8, 8), standardised by the training mean and deviation of all pixels.

    The split is one fixed permutation, the same for every seed of an experiment.
    """
    pixels, labels = _everything()
    if not 0 < train_examples < len(labels):
        raise ValueError(f"train_examples: expected 1 to {len(labels) - 1}, got {train_examples}")
    order = torch.randperm(len(labels), generator=generator(0, "digits split"))
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8)[order]
    targets = torch.from_numpy(labels).long()[order]
    seen = images[:train_examples]
    images = (images - seen.mean()) / seen.std()
    return Data(
        train=Split(images[:train_examples], targets[:train_examples]),
        test=Split(images[train_examples:], targets[train_examples:]),
        classes=10,
    )

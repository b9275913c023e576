"""Batches of examples that do not lie on the device: read as they are needed, by workers where asked, then the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch

from landscape.data import nested
from landscape.data.augmentation import Augmentations
from landscape.data.source import Source
from landscape.data.workers import Order, Readers


class Streamed(Source):
    """Batches of the kind "training" of `readers`, placed on `device` and augmented there."""

    def __init__(
        self, readers: Readers, augmentations: Augmentations, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.readers, self.augmentations, self.device, self.dtype = readers, augmentations, device, dtype

    def batches(self, epoch: int, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, Any]]:
        """Two batches for each worker are read ahead."""
        shares = self.shares(epoch, position, rank, world)
        with closing(self.readers.walk([Order("training", index.numpy(), epoch) for index in shares])) as read:
            for index, batch in zip(iter(shares), read, strict=True):
                inputs, targets = nested.placed(batch, self.device, self.dtype)
                yield self.augmentations(inputs, index.to(self.device), epoch), targets

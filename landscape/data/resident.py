"""Batches of tensors that lie whole on the device; what is random about them is done there, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from landscape.data.augmentation import Augmentations
from landscape.data.source import Source, order_of_epoch
from landscape.data.split import Split
from landscape.distributed import share_of


class Resident(Source):
    """Batches of `split`, on the device where that is."""

    def __init__(self, split: Split, augmentations: Augmentations) -> None:
        self.split, self.augmentations = split, augmentations

    def batches(self, epoch: int, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, Any]]:
        """Nothing is loaded: each batch costs its rows. One transfer of the epoch's order."""
        order = order_of_epoch(self.seed, epoch, self.examples).to(self.split.device)
        for batch in order.split(self.batch_size)[position:]:
            index = share_of(batch, rank, world)
            inputs, targets = self.split.raw(index)
            yield self.augmentations(inputs, index, epoch), targets

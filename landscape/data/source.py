"""Where the batches of a training come from: a pure function of (seed, epoch, index), whatever came before.

    batches(epoch, position, rank, world)      from batch `position` of an epoch on, this process's share of each

Asking again brings the same batches to the bit, so a resumed run sees what an uninterrupted one sees; the shares of a
batch are disjoint, and together they are the batch that one process gets. What is drawn for an example (augmentation) is
drawn once: all passes of a step see it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from landscape.distributed import share_of
from landscape.seeding import generator


class Source(ABC):
    """Batches of (inputs, targets) for training; anybody's stands in `landscape.data.Data(..., source=...)`.

    `seed`, `batch_size` and `examples` (how many there are in an epoch) are set by the experiment before the first batch
    is asked for. Draw from `landscape.seeding.generator(self.seed, name, epoch)`, never from the global generators.
    """

    seed: int = 0
    batch_size: int = 64
    examples: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the last one perhaps smaller."""
        return -(-self.examples // self.batch_size)

    def size(self, position: int) -> int:
        """Examples in batch `position` of an epoch, all shares together."""
        return min(self.batch_size, self.examples - position * self.batch_size)

    def order(self, epoch: int) -> list[Tensor]:
        """Which examples are in each batch of an epoch: a permutation of all, cut."""
        return list(order_of_epoch(self.seed, epoch, self.examples).split(self.batch_size))

    def shares(self, epoch: int, position: int, rank: int, world: int) -> list[Tensor]:
        """The part that falls to this process of each batch from `position` on."""
        return [share_of(batch, rank, world) for batch in self.order(epoch)[position:]]

    @abstractmethod
    def batches(self, epoch: int, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, Any]]:
        """The batches of an epoch from `position` on, the share of process `rank` of `world` of each."""


def order_of_epoch(seed: int, epoch: int, examples: int) -> Tensor:
    """The stream "data order" of an epoch: a permutation of the examples' numbers."""
    return torch.randperm(examples, generator=generator(seed, "data order", epoch))

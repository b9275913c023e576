"""Which examples stand for a split where not all are looked at: the same for every run, method and checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.seeding import generator

EVALUATION_BATCH = 1024  # examples in one forward pass without gradients


def shared_examples(split: str, examples: int, in_all: int, draw: int = 0) -> Tensor:
    """Indices of the first `examples` of one fixed permutation of a split, another for every `draw`."""
    return torch.randperm(in_all, generator=generator(draw, f"examples of {split}"))[:examples]


def evaluated_examples(most: int, in_all: int) -> Tensor:
    """Indices of the training examples that an evaluation looks at: all in their own order, or `most` shared ones."""
    return torch.arange(in_all) if in_all <= most else shared_examples("train", most, in_all)


def equal_batches(index: Tensor) -> tuple[Tensor, ...]:
    """`index` in batches of one size, or of two that differ by one."""
    return index.tensor_split(-(-len(index) // EVALUATION_BATCH))

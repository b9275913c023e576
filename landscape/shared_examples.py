"""Which examples stand for a split where not all are looked at: the same for every run, method and checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.seeding import generator

EVALUATION_BATCH = 1024  # examples in one forward pass without gradients


def shared_examples(split: str, examples: int, in_all: int, draw: int = 0) -> Tensor:
    """Indices of the first `examples` of one fixed permutation of a split, another for every `draw`."""
    return torch.randperm(in_all, generator=generator(draw, f"examples of {split}"))[:examples]


def chosen_examples(split: str, in_all: int, *, examples: int | None, draw: int, shuffle: int | None) -> Tensor:
    """Indices of the shared examples, of all for None; in an order drawn from the seed `shuffle` where that is asked for."""
    if examples is None and draw:
        raise ValueError(f"draw: chooses which examples are taken; expected examples beside it, got draw={draw} alone")
    if examples is not None and not 1 <= examples <= in_all:
        raise ValueError(f"examples: expected 1 to {in_all} of the {split} split, got {examples}")
    index = torch.arange(in_all) if examples is None else shared_examples(split, examples, in_all, draw)
    if shuffle is not None:
        index = index[torch.randperm(len(index), generator=generator(shuffle, "order of the batches"))]
    return index


def evaluated_examples(most: int, in_all: int) -> Tensor:
    """Indices of the training examples that an evaluation looks at: all in their own order, or `most` shared ones."""
    return torch.arange(in_all) if in_all <= most else shared_examples("train", most, in_all)


def equal_batches(index: Tensor, least: int = 1) -> tuple[Tensor, ...]:
    """`index` in batches of one size, or of two that differ by one; `least` of them or more."""
    return index.tensor_split(max(least, -(-len(index) // EVALUATION_BATCH)))

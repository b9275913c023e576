"""Which examples stand for a split where not all are looked at: the same for every run, method and checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.seeding import generator

EVALUATION_BATCH = 1024  # examples in one forward pass without gradients


def shared_examples(split: str, examples: int, in_all: int, draw: int = 0) -> Tensor:
    """Indices of the first `examples` of one fixed permutation of a split, another for every `draw`."""
    return torch.randperm(in_all, generator=generator(draw, f"examples of {split}"))[:examples]


def chosen_examples(
    split: str, inputs: Tensor, targets: Tensor, *, examples: int | None, draw: int, shuffle: int | None
) -> tuple[Tensor, Tensor]:
    """The shared examples of a split's, all for None; in an order drawn from the seed `shuffle` where that is asked for."""
    if examples is None and draw:
        raise ValueError(f"draw: chooses which examples are taken; expected examples beside it, got draw={draw} alone")
    if examples is not None:
        if not 1 <= examples <= len(targets):
            raise ValueError(f"examples: expected 1 to {len(targets)} of the {split} split, got {examples}")
        index = shared_examples(split, examples, len(targets), draw)
        inputs, targets = inputs[index], targets[index]
    if shuffle is not None:
        index = torch.randperm(len(targets), generator=generator(shuffle, "order of the batches"))
        inputs, targets = inputs[index], targets[index]
    return inputs, targets


def evaluated_examples(most: int, in_all: int) -> Tensor:
    """Indices of the training examples that an evaluation looks at: all in their own order, or `most` shared ones."""
    return torch.arange(in_all) if in_all <= most else shared_examples("train", most, in_all)


def equal_batches(index: Tensor, least: int = 1) -> tuple[Tensor, ...]:
    """`index` in batches of one size, or of two that differ by one; `least` of them or more."""
    return index.tensor_split(max(least, -(-len(index) // EVALUATION_BATCH)))


class EvaluatedBatches(Sequence[tuple[Tensor, Tensor]]):
    """The training examples that an evaluation looks at, in its batches; each is copied when it is asked for."""

    def __init__(self, inputs: Tensor, targets: Tensor, *, dtype: torch.dtype, most: int, least: int = 1) -> None:
        self._inputs, self._targets, self._dtype = inputs, targets, dtype if inputs.is_floating_point() else None
        self._parts = equal_batches(evaluated_examples(most, len(targets)), least)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, position: Any) -> Any:
        part = self._parts[position]
        return self._inputs[part].to("cpu", self._dtype), self._targets[part]

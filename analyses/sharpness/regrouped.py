"""All examples of an objective in a random order, cut into groups: batches of tensors, tuples or mappings alike."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from landscape.objective.batches import by_rows
from landscape.objective.objective import Objective

Examples = tuple[Any, Any]  # inputs and targets, each nested tensors with one row for each example


def shuffled_examples(objective: Objective, seed: int) -> tuple[Examples, int]:
    """Inputs and targets of all examples in the order drawn from `seed`, and how many; without those of weight zero.

    Raises ValueError for an objective of several processes, TypeError for batches whose tensors are not rows of
    examples, or are of different widths.
    """
    if objective.local_examples != objective.examples:
        raise ValueError("m_sharpness regroups all examples; expected an objective without data_parallel")
    with objective.running():
        batches = list(objective.batches.walk())
    weights = [objective.batches.row_weights(batch) for batch in batches]
    if not all(by_rows((batch.inputs, batch.targets), len(each)) for batch, each in zip(batches, weights, strict=True)):
        raise TypeError(
            "m_sharpness regroups examples: expected batches of tensors with one row for each example, alone or in "
            "tuples and mappings; got tensors of other lengths, or other objects"
        )
    try:
        together = pytree.tree_map(
            lambda *parts: torch.cat(parts) if isinstance(parts[0], Tensor) and parts[0].ndim else parts[0],
            *((batch.inputs, batch.targets) for batch in batches),
        )
    except RuntimeError as failure:
        raise TypeError(
            "m_sharpness regroups examples: expected batches of one width, that it can put side by side; "
            "pad them to the same length"
        ) from failure
    counted = torch.tensor([weight > 0 for each in weights for weight in each])
    order = torch.randperm(len(counted), generator=torch.Generator().manual_seed(seed))
    order = order[counted[order]]
    return _rows(together, lambda tensor: tensor[order.to(tensor.device)]), len(order)


def groups_of(examples: Examples, count: int, size: int) -> Examples:
    """The first count · size examples as `count` groups: tensors (count, size, …)."""
    return _rows(examples, lambda tensor: tensor[: count * size].unflatten(0, (count, size)))


def split_groups(groups: Examples, together: int) -> list[tuple[int, Examples]]:
    """The groups in parts of `together`, each with the number of groups in it."""
    count = next(len(value) for value in pytree.tree_leaves(groups) if isinstance(value, Tensor) and value.ndim)
    starts = range(0, count, together)
    parts = []
    for start in starts:
        part = slice(start, start + together)
        parts.append((min(together, count - start), _rows(groups, operator.itemgetter(part))))
    return parts


def one_group(groups: Examples, index: int) -> Examples:
    """One group's inputs and targets."""
    return _rows(groups, lambda tensor: tensor[index])


def row_dimensions(groups: Examples) -> Examples:
    """For `vmap`: 0 for what is cut into groups, None for the rest."""
    dimensions: Examples = pytree.tree_map(lambda v: 0 if isinstance(v, Tensor) and v.ndim else None, groups)
    return dimensions


def _rows(examples: Examples, change: Callable[[Tensor], Tensor]) -> Examples:
    changed: Examples = pytree.tree_map(
        lambda value: change(value) if isinstance(value, Tensor) and value.ndim else value, examples
    )
    return changed

r"""The same batches on every walk: a loader that shuffles or augments makes every number a sample of another function.

The first batch of a source is remembered and compared with that of every later walk. Lists hold still by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from landscape.seeding import global_state, set_global_state


@contextmanager
def generators_kept(device: torch.device, *sources: Any) -> Iterator[None]:
    """Every global generator, and those of the loaders `sources`, is afterwards where it was before."""
    before = global_state(device)
    own = [g for source in sources if isinstance(g := getattr(source, "generator", None), torch.Generator)]
    states = [generator.get_state() for generator in own]
    try:
        yield
    finally:
        set_global_state(before, device)
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)


def fresh_walk(source: Iterable[Any]) -> Iterator[Any]:
    """An iterator over `source`. A DataLoader draws a seed when it makes one, needed or not: nobody notices here."""
    if isinstance(source, list | tuple):
        return iter(source)
    with generators_kept(torch.device("cpu"), source):
        return iter(source)


def require_same(first: Any, again: Any) -> None:
    """Raise `ValueError` where the first batch of this walk is not that of an earlier one."""
    if not same(first, again):
        raise ValueError(
            "the batches differ from one walk to the next: a shuffling or augmenting loader, or one without data; "
            "use shuffle=False and no random augmentation, or pass list(loader)"
        )


def same(one: Any, other: Any) -> bool:
    """Whether two nested structures hold equal tensors; NaN equals NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(_comparable(one), _comparable(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one).__eq__ is object.__eq__ and hasattr(one, "__dict__"):
        return type(one) is type(other) and same(vars(one), vars(other))
    return bool(one == other)


def _comparable(tensor: Tensor) -> Tensor:
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return tensor.nan_to_num() if tensor.is_floating_point() or tensor.is_complex() else tensor

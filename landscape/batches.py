r"""The data an objective averages over: batches that can be walked again, placed on a device, with their example
counts.

A batch is `(inputs, targets)`. `inputs` is what the model takes: a tensor (`model(x)`), a mapping (`model(**x)`) or a
tuple (`model(*x)`). A batch that is itself a mapping, as Hugging Face collators make them, is both: `model(**batch)`
and `loss_fn(output, batch)`.

A batch counts as many examples as its targets have rows (dimension 0 of the first tensor); another meaning, such as
scored tokens, is given by `count(inputs, targets) -> int`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

Count = Callable[[Any, Any], int]


class Batch(NamedTuple):
    """One batch on its device: what the model takes, what the loss takes, and how many examples that is."""

    inputs: Any
    targets: Any
    examples: int


class Batches(Sequence[Any]):
    """A re-walkable iterable of batches seen as a sequence; each walk loads them anew unless they were a list.

    Raises `TypeError` for a one-shot iterator, `ValueError` for no batches at all.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        count: Count | None,
        device: torch.device,
        dtype: torch.dtype | None,
        micro_batch: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if not isinstance(batches, Iterable):
            raise TypeError(f"expected an iterable of (inputs, targets) batches, got {type(batches).__name__}")
        if isinstance(batches, Iterator):
            raise TypeError(
                f"expected batches that can be walked again, got the one-shot iterator {type(batches).__name__}; "
                "pass a list or a DataLoader with shuffle=False"
            )
        self.source = batches
        self._count, self._device, self._dtype = count, device, dtype
        self._micro_batch, self._share = micro_batch, share

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Examples of each batch, from one walk."""
        counts = tuple(batch.examples for batch in self.walk())
        if not counts and self._share != (0, 1):
            raise ValueError(
                f"expected a batch for each of {self._share[1]} processes, got fewer; make smaller ones (micro_batch=)"
            )
        if not counts:
            raise ValueError("expected at least one batch, got none; is the data set empty or the loader exhausted?")
        return counts

    def walk(self) -> Iterator[Batch]:
        """The batches of this process in order, on the device and, where they are floating point, in the dtype."""
        rank, processes = self._share
        pieces = (piece for position, batch in enumerate(self.source) for piece in self._pieces(position, batch))
        for inputs, targets in itertools.islice(pieces, rank, None, processes):
            inputs, targets = self._place(inputs), self._place(targets)
            yield Batch(inputs, targets, (self._count or _rows)(inputs, targets))

    def _pieces(self, position: int, batch: Any) -> Iterator[tuple[Any, Any]]:
        """The parts, of `micro_batch` rows, that a batch is worked on in."""
        if isinstance(batch, Mapping):
            inputs, targets = batch, batch
        elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2:
            inputs, targets = batch
        else:
            raise TypeError(
                f"batch {position}: expected (inputs, targets) or a mapping, got {type(batch).__name__}"
                + (f" of length {len(batch)}" if isinstance(batch, Sequence) else "")
            )
        rows = _rows(inputs, targets)
        if rows < 1:
            raise ValueError(f"batch {position}: expected at least one example, got {rows}")
        if self._micro_batch is None or rows <= self._micro_batch:
            yield inputs, targets
            return
        for start in range(0, rows, self._micro_batch):
            part = slice(start, start + self._micro_batch)
            yield _part(inputs, part, rows), _part(targets, part, rows)

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.source)

    def __getitem__(self, index: int | slice) -> Any:
        source = self.source if isinstance(self.source, Sequence) else list(self.source)
        return source[index]

    def _place(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            dtype = self._dtype if value.is_floating_point() else None
            return value.to(device=self._device, dtype=dtype)
        if isinstance(value, Mapping):
            return {key: self._place(entry) for key, entry in value.items()}
        if isinstance(value, tuple | list):
            return tuple(self._place(entry) for entry in value)
        return value


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that `inputs` stands for."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, tuple) else ((inputs,), {})


def _part(value: Any, part: slice, rows: int) -> Any:
    """The rows `part` of every tensor that has `rows` rows."""
    if isinstance(value, Tensor):
        return value[part] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, Mapping):
        return {key: _part(entry, part, rows) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_part(entry, part, rows) for entry in value)
    return value


def _rows(inputs: Any, targets: Any) -> int:
    for value in (targets, inputs):
        tensor = _first_tensor(value)
        if tensor is not None and tensor.ndim:
            return tensor.shape[0]
    raise ValueError(
        "cannot tell how many examples a batch has: no tensor with rows in it; pass count=(inputs, targets) -> int"
    )


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = [value[key] for key in ("labels", "targets") if key in value] + list(value.values())
    for entry in value if isinstance(value, tuple | list) else ():
        tensor = _first_tensor(entry)
        if tensor is not None:
            return tensor
    return None

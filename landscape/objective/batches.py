r"""The data an objective averages over: batches that can be walked again, placed on a device, with their example
counts.

A batch is `(inputs, targets)`. `inputs` is what the model takes: a tensor (`model(x)`), a mapping (`model(**x)`) or a
tuple (`model(*x)`). A batch that is itself a mapping, as Hugging Face collators make them, is both: `model(**batch)`
and `loss_fn(output, batch)`.

A batch has as many examples as its targets have rows (dimension 0 of the first tensor). What it weighs in the mean
over the data is what its loss averaged over: `landscape.objective.loss_average` knows that for torch's losses; for others it is
the rows, or what `count(inputs, targets) -> int` says (scored tokens, say), which then are the examples too. A batch
of weight zero is passed over.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from landscape.objective.loss_average import TorchLoss
from landscape.objective.repeated_walks import fresh_walk, generators_kept, require_same
from optimizers.ground.rows import first_tensor, rows_of

IGNORED = -100  # the target that torch's losses pass over unless told otherwise
Count = Callable[[Any, Any], int]


class Batch(NamedTuple):
    """One batch on its device: what the model takes, what the loss takes, how many examples that is, its weight."""

    inputs: Any
    targets: Any
    examples: int
    weight: float = 1.0


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
        loss: TorchLoss | None = None,
        whole: bool = False,
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
        self._count, self._device, self._dtype, self._loss = count, device, dtype, loss
        self._whole, self._micro_batch, self._share = whole, micro_batch, share
        self.larger: Batches | None = None  # the same data in fewer batches, which walks take where it is the same mean
        self.examined = False  # whether `landscape.objective.determinism` has looked at the loss over these batches
        self._uncounted = False  # whether targets pass over some rows, nobody says how many
        self._first: list[Any] = []  # the first batch, where another walk might bring another

    @cached_property
    def _tally(self) -> list[tuple[int, float]]:
        """Examples and weight of each batch of this process, from one walk; and a look at whether walks agree."""
        with generators_kept(self._device, self.source):
            tally = [self._measure(*self._place(piece)) for piece in self._share_of_pieces()]
            self._look_again()
        if not tally and self._share != (0, 1):
            raise ValueError(
                f"expected a batch for each of {self._share[1]} processes, got fewer; make smaller ones (micro_batch=)"
            )
        if not tally:
            raise ValueError("expected at least one batch, got none; is the data set empty or the loader exhausted?")
        if self._uncounted and (len(tally) > 1 or self._share != (0, 1)):
            raise ValueError(
                f"some targets are {IGNORED}, which losses pass over, and it cannot be told how many the loss counts; "
                f"pass count=(inputs, targets) -> int, for example lambda x, y: int((y != {IGNORED}).sum())"
            )
        if not any(weight for _, weight in tally):
            raise ValueError(
                "expected at least one example that counts, got none: every target is ignored, or count= returns 0"
            )
        return tally

    @property
    def counted(self) -> bool:
        """Whether the caller says what batches weigh."""
        return self._count is not None

    @property
    def counts(self) -> tuple[int, ...]:
        """Examples of each batch that counts."""
        return tuple(examples for examples, weight in self._tally if weight)

    @property
    def weight(self) -> float:
        """The weights of all batches of this process together."""
        return sum(weight for _, weight in self._tally)

    def walk(self) -> Iterator[Batch]:
        """The batches of this process in order, on the device and, where they are floating point, in the dtype.

        Those of `larger` where there are some. A walk that brings other batches than the first did is a `ValueError`.
        """
        if self.larger is not None:
            yield from self.larger.walk()
            return
        for piece, measured in itertools.zip_longest(self._share_of_pieces(), self._tally):
            if piece is None or measured is None:
                raise ValueError(
                    f"the batches differ from one walk to the next: expected {len(self._tally)} of them, "
                    f"got {'fewer' if piece is None else 'more'}; pass list(loader)"
                )
            examples, weight = measured
            if weight:
                inputs, targets = self._place(piece)
                yield Batch(inputs, targets, examples, weight)

    def row_weights(self, batch: Batch) -> list[float]:
        """What each row of a batch weighs by itself."""
        if self._count is not None:
            rows = _rows(batch.inputs, batch.targets)
            cuts = [slice(row, row + 1) for row in range(rows)]
            return [float(self._count(*(rows_of(part, cut, rows) for part in batch[:2]))) for cut in cuts]
        if self._loss is not None and isinstance(batch.targets, Tensor):
            return self._loss.rows(batch.targets).tolist()
        return [1.0] * batch.examples

    def head(self, rows: int) -> Batch:
        """The first `rows` rows of the first batch, or all of it where its tensors do not consist of rows."""
        batch = next(self.walk())
        parts = (batch.inputs, batch.targets)
        if batch.examples <= rows or not by_rows(parts, batch.examples):
            return batch
        inputs, targets = (rows_of(part, slice(rows), batch.examples) for part in parts)
        return Batch(inputs, targets, rows, batch.weight)

    def _share_of_pieces(self) -> Iterator[tuple[Any, Any]]:
        pieces = (piece for position, batch in enumerate(self._raw()) for piece in self._pieces(position, batch))
        return itertools.islice(pieces, self._share[0], None, self._share[1])

    def _raw(self) -> Iterator[Any]:
        for position, batch in enumerate(fresh_walk(self.source)):
            if position == 0 and not isinstance(self.source, list | tuple):
                if self._first:
                    require_same(self._first[0], batch)
                else:
                    self._first.append(batch)
            yield batch

    def _look_again(self) -> None:
        for _ in itertools.islice(self._raw(), 1):
            pass

    def _measure(self, inputs: Any, targets: Any) -> tuple[int, float]:
        """Examples and weight of a batch."""
        if self._count is not None:
            examples = int(self._count(inputs, targets))
            return examples, float(examples)
        rows = _rows(inputs, targets)
        if self._loss is not None and isinstance(targets, Tensor):
            return rows, self._loss.total(targets)
        self._uncounted = self._uncounted or _holds_ignored(targets)
        return rows, float(rows)

    def _pieces(self, position: int, batch: Any) -> Iterator[tuple[Any, Any]]:
        """The parts, of `micro_batch` rows, that a batch is worked on in."""
        if self._whole or isinstance(batch, Mapping):
            inputs, targets = batch, batch
        elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2:
            inputs, targets = batch
        else:
            raise TypeError(
                f"batch {position}: expected (inputs, targets) or a mapping, got {type(batch).__name__}"
                + (f" of length {len(batch)}" if isinstance(batch, Sequence) else "")
            )
        if self._count is not None and self._micro_batch is None:
            yield inputs, targets
            return
        rows = _rows(inputs, targets)
        if rows < 1:
            raise ValueError(f"batch {position}: expected at least one example, got {rows}")
        if self._micro_batch is None or rows <= self._micro_batch:
            yield inputs, targets
            return
        for start in range(0, rows, self._micro_batch):
            part = slice(start, start + self._micro_batch)
            yield rows_of(inputs, part, rows), rows_of(targets, part, rows)

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[Any]:
        return self._raw()

    def __getitem__(self, index: int | slice) -> Any:
        source = self.source if isinstance(self.source, Sequence) else list(self._raw())
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


def by_rows(value: Any, rows: int) -> bool:
    """Whether every tensor of `value` has `rows` rows, and nothing in it could hide others."""
    if isinstance(value, Tensor):
        return not value.ndim or (value.shape[0] == rows and value.layout == torch.strided)
    if isinstance(value, Mapping):
        return all(by_rows(entry, rows) for entry in value.values())
    if isinstance(value, tuple | list):
        return all(by_rows(entry, rows) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)


def _rows(inputs: Any, targets: Any) -> int:
    for value in (targets, inputs):
        tensor = first_tensor(value)
        if tensor is not None and tensor.ndim:
            return tensor.shape[0]
    raise ValueError(
        "cannot tell how many examples a batch has: no tensor with rows in it; pass count=(inputs, targets) -> int"
    )


def _holds_ignored(value: Any) -> bool:
    """Whether integer labels among `value` hold torch's mark of a target that does not count."""
    if isinstance(value, Tensor):
        whole = value.dtype in (torch.int8, torch.int16, torch.int32, torch.int64)
        return whole and bool((value == IGNORED).any())
    if isinstance(value, Mapping):
        return any(_holds_ignored(entry) for entry in value.values())
    return isinstance(value, tuple | list) and any(map(_holds_ignored, value))

"""Examples read ahead by worker processes, torch's `DataLoader` being the machinery; which they are does not depend on it.

An `Order` says which examples and with which random numbers; a worker is handed the order and hands back the batch, so
nothing that is read ahead, or thrown away, leaves a trace in the numbers that follow.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from landscape.data.fetched import Fetched
from landscape.data.split import Split
from landscape.seeding import seed_of

Examples = Split | Fetched


class Order(NamedTuple):
    """What is wanted: examples of one kind by their numbers, with the random numbers of an epoch or of a fixed pass."""

    kind: str
    examples: np.ndarray
    epoch: int | None = None


@dataclass
class Failure:
    """What went wrong in fetching, as words: an exception may not survive the way from another process."""

    said: str
    of_the_system: bool

    def error(self) -> Exception:
        """What to raise."""
        return OSError(self.said) if self.of_the_system else ValueError(self.said)


class Reader(Dataset[Any]):
    """From an order to its batch, as stored; a failure is handed back as one."""

    def __init__(self, kinds: Mapping[str, Examples], seed: int) -> None:
        self.kinds, self.seed = kinds, seed

    def __getitem__(self, order: Order) -> Any:
        """The batch."""
        examples, index = self.kinds[order.kind], torch.from_numpy(order.examples)
        if isinstance(examples, Split):
            return examples.raw(index)
        seeds = None if order.epoch is None else partial(seed_of, self.seed, f"example of epoch {order.epoch}")
        try:
            return examples.raw(index, seeds)
        except (OSError, ValueError) as error:
            return Failure(str(error), isinstance(error, OSError))


class _Orders(Sampler[Order]):
    """The orders of the pass that comes next."""

    def __init__(self) -> None:
        self.next: Sequence[Order] = ()

    def __iter__(self) -> Iterator[Order]:
        return iter(self.next)


class Readers:
    """`workers` processes that fulfil orders, or none: then this process does, with the same result to the bit.

    They are started by the first pass and stay until `close`. A pass that begins while another is under way is read by
    this process.
    """

    def __init__(self, kinds: Mapping[str, Examples], *, seed: int, workers: int, pinned: bool) -> None:
        self.reader = Reader(kinds, seed)
        self.workers, self._pinned, self._busy = workers, pinned, False
        self._orders = _Orders()
        self._loader: DataLoader[Any] | None = None

    def walk(self, orders: Sequence[Order]) -> Generator[Any, None, None]:
        """The batches in the order of their orders.

        Raises:
            ValueError: An example cannot be read or stacked; names it.
            OSError: The system would not let it, or a worker process died.
        """
        if not self.workers or self._busy:
            for order in orders:
                yield _delivered(self.reader[order])
            return
        self._busy = True
        try:
            yield from map(_delivered, self._read_ahead(orders))
        finally:
            self._busy = False

    def _read_ahead(self, orders: Sequence[Order]) -> Generator[Any, None, None]:
        self._orders.next = orders
        if self._loader is None:
            self._loader = DataLoader(
                self.reader,
                batch_size=None,
                sampler=self._orders,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                pin_memory=self._pinned,
                persistent_workers=True,
                worker_init_fn=_leave_signals_to_the_parent,
                generator=torch.Generator().manual_seed(0),  # else it would draw from the global one, training's
            )
        try:
            yield from self._loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            self.close()
            raise ChildProcessError(
                f"a worker process that reads data died: {str(error).splitlines()[0]} Was it killed for its memory? "
                "Fewer workers need less; with workers=0 an error of the data set's own is seen where it happens"
            ) from error

    def close(self) -> None:
        """End the workers, also one that hangs in reading."""
        iterator = None if self._loader is None else self._loader._iterator
        self._loader = None
        if iterator is not None:
            with contextlib.suppress(RuntimeError):  # of one that died
                iterator._shutdown_workers()  # type: ignore[attr-defined]
            for worker in iterator._workers:  # type: ignore[attr-defined]
                if worker.is_alive():
                    worker.kill()


def _delivered(found: Any) -> Any:
    if isinstance(found, Failure):
        raise found.error()
    return found


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C, and the SIGTERM of a scheduler, reach all processes of a job; the training decides when to stop reading."""

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second time it does what it always did

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, first)

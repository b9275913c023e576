"""What a training and its evaluations are fed with: batches on the device, wherever the examples lie.

feed.batches(epoch, position, rank, world)      of training, augmented, from the source
feed.fixed(split, parts)                        for evaluation: the examples as they are, the same each time
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from landscape.data import nested
from landscape.data.augmentation import Augmentations
from landscape.data.dataset import Data
from landscape.data.fetched import Fetched
from landscape.data.resident import Resident
from landscape.data.source import Source
from landscape.data.split import Split
from landscape.data.streamed import Streamed
from landscape.data.workers import Order, Readers
from landscape.distributed import share_of
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.shared_examples import equal_batches, evaluated_examples

KEPT = 1 << 28  # bytes of a fixed pass that stay in memory from one walk to the next


class Minibatch(NamedTuple):
    """A process's share of a step's batch, and how many examples the whole batch has."""

    inputs: Any
    targets: Any
    examples: int


class Feed:
    """The data of an experiment, bound to a device.

    Tensors are resident there, on an accelerator if they take at most half of its free memory; what a map-style data set
    has is read as it is needed. `resident` of the execution says otherwise. `dtype` is the experiment's if left out.
    """

    def __init__(
        self,
        experiment: Experiment,
        execution: Execution,
        data: Data,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.experiment, self.device, self.dtype = experiment, device, dtype or experiment.dtype
        self._kept, self._evaluation_examples = execution.resident, execution.evaluation_examples
        self._own = data.source
        self._kinds = {"training": data.train, "train": data.split("train"), "test": data.split("test")}
        self._fits = execution.resident == "yes" or _fits(self._kinds.values(), device)
        self._placed: dict[int, Split] = {}
        self._readers = Readers(
            self._kinds, seed=experiment.seed, workers=execution.workers, pinned=device.type in ("cuda", "xpu")
        )

    @cached_property
    def source(self) -> Source:
        """Where training's batches come from.

        Raises:
            ValueError: An augmentation does not exist or does not suit the examples.
        """
        asked, train = self.experiment, self._kinds["training"]
        if self._own is not None:
            if asked.augment:
                raise ValueError("augment: expected none for a source that makes its own batches; augment there")
            return self._own
        augmentations = Augmentations(
            asked.augment,
            seed=asked.seed,
            examples=len(train),
            shape=train.shape if asked.augment else None,
            standardisation=train.standardisation and train.standardisation.to(self.device),
            dtype=self.dtype,
        )
        resident = self._resident("training")
        source: Source
        if resident is not None:
            source = Resident(resident, augmentations)
        else:
            source = Streamed(self._readers, augmentations, device=self.device, dtype=self.dtype)
        source.seed, source.batch_size, source.examples = asked.seed, asked.batch_size, len(train)
        return source

    def _resident(self, kind: str) -> Split | None:
        """The examples of a kind on the device, where they are kept there."""
        found = self._kinds[kind]
        if not isinstance(found, Split):
            if self._kept == "yes":  # fetched once, an example would be the same in every epoch: another experiment
                raise ValueError(
                    f"resident: expected auto or no, since {found.name} is a map-style data set, whose examples may be "
                    "others in every epoch; a factory that returns tensors (landscape.data.Split) has them resident"
                )
            return None
        if self._kept == "no" or (self._kept == "auto" and not self._fits):
            return None
        if id(found) not in self._placed:
            self._placed[id(found)] = found.to(self.device, self.dtype)
        return self._placed[id(found)]

    def examples(self, split: str) -> int:
        """How many a split has."""
        return len(self._kinds[split])

    def targets(self, split: str) -> Any:
        """All targets of a split of tensors; None where they are only read with their examples."""
        found = self._kinds[split]
        return found.targets if isinstance(found, Split) else None

    def batches(self, epoch: int, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[Minibatch]:
        """The batches of an epoch from `position` on, the share of process `rank` of `world` of each."""
        found = self.source.batches(epoch, position, rank, world)
        for place, (inputs, targets) in enumerate(found, start=position):
            examples = self.source.size(place)
            if self._own is not None:
                inputs, targets = self._checked(
                    inputs, targets, examples, f"batch {place} of epoch {epoch}", rank, world
                )
            yield Minibatch(inputs, targets, examples)

    def _checked(self, inputs: Any, targets: Any, examples: int, name: str, rank: int, world: int) -> tuple[Any, Any]:
        expected = len(share_of(torch.arange(examples), rank, world))
        if nested.rows(targets) != expected:
            raise ValueError(
                f"{type(self.source).__name__}: {name}: expected {expected} of its {examples} examples for process {rank} "
                f"of {world}, got {nested.rows(targets)}; `self.shares(epoch, position, rank, world)` has their numbers"
            )
        placed: tuple[Any, Any] = nested.placed((inputs, targets), self.device, self.dtype)
        return placed

    def fixed(self, split: str, parts: Iterable[Tensor]) -> Iterator[tuple[Any, Any]]:
        """The examples of a split in these parts, without augmentation; of resident ones each as it is asked for."""
        resident = self._resident(split)
        if resident is not None:
            for part in parts:
                yield resident.take(_as_slice(part))
            return
        standardisation = self._kinds[split].standardisation
        standardisation = standardisation and standardisation.to(self.device)
        with closing(self._readers.walk([Order(split, part.cpu().numpy()) for part in parts])) as read:
            for batch in read:
                inputs, targets = nested.placed(batch, self.device, self.dtype)
                yield inputs if standardisation is None else standardisation(inputs).to(self.dtype), targets

    def walk(self, split: str, parts: Sequence[Tensor]) -> Sequence[tuple[Any, Any]]:
        """`fixed` as a sequence that can be walked again: in memory up to 256 MiB, or where it lies there already."""
        first = next(self.fixed(split, parts[:1]))
        size = sum(tensor.nbytes for tensor in nested.tensors(first)) / len(parts[0]) * sum(map(len, parts))
        resident = self._resident(split)
        if size <= KEPT or (resident is not None and resident.standardisation is None):
            return list(self.fixed(split, parts))
        return _Walk(self, split, parts)

    def evaluated(self, least: int = 1) -> Sequence[tuple[Any, Any]]:
        """The training examples that an evaluation looks at, in its batches, `least` or more; each made when asked for."""
        index = evaluated_examples(self._evaluation_examples, self.examples("train"))
        return _Walk(self, "train", equal_batches(index, least))

    def require_pure(self) -> None:
        """Raise `ValueError` where asking again brings another batch, or the shares of a batch are not the batch.

        Looks at the second batch, of an own source at the shares of the first too; resident ones are pure by construction.
        """
        if isinstance(self.source, Resident):
            return
        first, *second = islice(self.batches(0), 2)
        name = type(self.source).__name__ if self._own is not None else "the training data set"
        if second and not nested.equal(second[0], next(self.batches(0, 1))):
            raise ValueError(
                f"{name}: expected the same batch whenever it is asked for, got another at the second time: what it draws "
                "must be a function of (seed, epoch, example). In dataset[i] draw from torch's, NumPy's or Python's global "
                "generators, which start anew for each example; in a source from seeding.generator(self.seed, name, epoch)"
            )
        if self._own is not None and first.examples > 1:
            shares = [next(self.batches(0, 0, rank, 2)) for rank in range(2)]
            joined = map(torch.cat, zip(*(list(nested.tensors(share[:2])) for share in shares), strict=True))
            if not nested.equal(tuple(joined), tuple(nested.tensors(first[:2]))):
                raise ValueError(
                    f"{name}: expected the shares of two processes to be one process's batch together, got another; "
                    "`self.shares(epoch, position, rank, world)` has the numbers of each share's examples"
                )

    def close(self) -> None:
        """End the workers; the next pass starts others."""
        self._readers.close()


class _Walk(Sequence[tuple[Any, Any]]):
    """A fixed pass that reads its batches anew each time."""

    def __init__(self, feed: Feed, split: str, parts: Sequence[Tensor]) -> None:
        self._feed, self._split, self._parts = feed, split, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._feed.fixed(self._split, self._parts)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return list(self._feed.fixed(self._split, self._parts[which]))
        return next(self._feed.fixed(self._split, [self._parts[which]]))


def _as_slice(part: Tensor) -> Tensor | slice:
    """Consecutive numbers on the CPU as a slice, whose rows need no copy."""
    if (
        part.device.type == "cpu"
        and len(part)
        and torch.equal(part, torch.arange(int(part[0]), int(part[0]) + len(part)))
    ):
        return slice(int(part[0]), int(part[0]) + len(part))
    return part


def _fits(kinds: Iterable[Split | Fetched], device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    needed = {id(found): found.nbytes for found in kinds if isinstance(found, Split) and found.device.type == "cpu"}
    return sum(needed.values()) <= free // 2

"""Examples that are fetched one by one from anybody's map-style data set: `len(dataset)` and `dataset[i]`.

What the data set draws from the global generators (torch's, NumPy's, Python's: random transforms) is a function of
(seed, epoch, i), so neither the order nor the number of the workers matters. A fixed pass, as an evaluation takes it,
draws the same numbers each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from landscape.data import nested
from landscape.data.split import Standardisation
from landscape.seeding import cpu_generators_kept, put_cpu_generators, seed_of

Seeds = Callable[[int], int]
"""From the number of an example to the seed of the numbers that it draws."""


class Fetched:
    """The examples of a map-style data set; `name` is what messages call them.

    Raises:
        ValueError: It is a stream without a length.
    """

    def __init__(
        self,
        dataset: Any,
        name: str,
        standardisation: Standardisation | None = None,
        targets: Tensor | None = None,
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise ValueError(
                f"{name}: expected tensors (landscape.data.Split) or a data set with len(dataset) and dataset[i], got "
                f"{type(dataset).__name__}: an epoch and a resumed run need to know example i without those before it. "
                "Write one whose dataset[i] makes or reads example i (and may draw at random: every i has its own seed)"
            )
        self.dataset, self.name, self.standardisation, self._targets = dataset, name, standardisation, targets

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def shape(self) -> Any:
        """Of one input; fetches the first example."""
        return nested.mapped(lambda tensor: tuple(tensor.shape[1:]), self.raw(slice(0, 1))[0])

    @property
    def targets(self) -> Tensor:
        """All targets, as the data set tells them without its inputs (its attribute `targets`).

        Raises:
            ValueError: It does not.
        """
        found = self._targets if self._targets is not None else getattr(self.dataset, "targets", None)
        if found is None or len(found) != len(self):
            raise ValueError(
                f"{self.name}: expected the data set {type(self.dataset).__name__} to have `targets`, one for each "
                "example, so that labels can be redrawn without fetching them all; give it that attribute"
            )
        return torch.as_tensor(found)

    def with_targets(self, targets: Tensor) -> Fetched:
        """The same inputs under other targets."""
        return Fetched(self.dataset, self.name, self.standardisation, targets)

    def take(self, index: Tensor | slice) -> tuple[Any, Any]:
        """The examples `index` as a network takes them, with the numbers of a fixed pass."""
        inputs, targets = self.raw(index)
        return (inputs if self.standardisation is None else self.standardisation(inputs)), targets

    def raw(self, index: Tensor | slice, seeds: Seeds | None = None) -> tuple[Any, Any]:
        """The examples `index` as the data set has them, stacked; the global generators are left as they were.

        Raises:
            ValueError: One cannot be fetched, or not be stacked with the others; names it. An OSError stays one.
        """
        numbers = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        seeds = seeds or (lambda number: seed_of(0, f"example of {self.name}", number))
        examples = []
        with cpu_generators_kept():
            for number in numbers:
                put_cpu_generators(seeds(number))
                examples.append(self._example(number))
            try:
                inputs, targets = default_collate(examples)
            except (TypeError, RuntimeError, ValueError, KeyError) as error:
                raise ValueError(
                    f"{self.name}: expected examples (input, target) of numbers or tensors in one shape, got such as "
                    f"cannot be stacked among {numbers[0]} to {numbers[-1]}: {error}"
                ) from error
        return inputs, targets if self._targets is None else self._targets[torch.as_tensor(list(numbers))]

    def _example(self, number: int) -> Any:
        try:
            example = self.dataset[number]
        except Exception as error:
            said = f"example {number} of {self.name} cannot be fetched: {type(error).__name__}: {error}"
            raise (OSError if isinstance(error, OSError) else ValueError)(said) from error
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise ValueError(
                f"example {number} of {self.name}: expected (input, target), got {type(example).__name__}"
                + (f" of length {len(example)}" if isinstance(example, tuple | list) else "")
            )
        return tuple(example)

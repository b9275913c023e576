"""Augmentation of whole batches where they lie, by random numbers that belong to the example and the epoch.

    augment = [{name = "crop", padding = 4}, {name = "flip"}, {name = "cutout", size = 16}]

For each epoch one table of random numbers is drawn on the CPU, from the stream ("augmentation …", epoch) of the run's
seed; its row i is example i's. So an example is augmented alike on every device, in whatever batch, process or worker it
comes up, and a resumed epoch goes on with the same images. Training alone sees it: evaluations, checkpoints' objectives
and the statistics of BatchNorm have the examples as they are.

Images stored as uint8 are standardised after what moves pixels (so a crop pads with black), before what wants them as
the network does (so a cutout fills with the mean).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.data.split import Standardisation
from landscape.named import Named
from landscape.seeding import generator

augmentations = Named("augmentation")


class Augmentation(ABC):
    """One kind: what it draws for each example, and what it does to a batch with that. Its options are those of `__init__`."""

    standardised = False
    """Whether it takes pixels as the network does; else as they are stored."""

    @abstractmethod
    def draw(self, examples: int, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """The random numbers of an epoch, one row for each example of this shape; `ValueError` if it takes none such."""

    @abstractmethod
    def __call__(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """A batch augmented by its examples' rows; leaves `batch` as it is, and does not wait for the device."""


def require_images(name: str, shape: Any) -> tuple[int, int]:
    """Height and width of images (C, H, W); ValueError for other examples."""
    if not isinstance(shape, tuple) or len(shape) != 3 or not all(isinstance(size, int) for size in shape):
        raise ValueError(f"expected images (channels, height, width) for {name}, got examples of shape {shape}")
    return shape[1], shape[2]


class Augmentations:
    """Those that an experiment asks for, in their order, and the standardisation where it belongs.

    Raises:
        ValueError: A name or option does not exist, or does not suit examples of this shape.
    """

    def __init__(
        self,
        asked: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        examples: int,
        shape: Any,
        standardisation: Standardisation | None,
        dtype: torch.dtype,
    ) -> None:
        self._steps = [_made(table) for table in asked]
        self._names = [f"augmentation {place} {table['name']}" for place, table in enumerate(asked)]
        self._seed, self._examples, self._shape = seed, examples, shape
        self._standardisation, self._dtype = standardisation, dtype
        self._epoch: int | None = None
        self._tables: list[Tensor] = []
        self._draw(0, torch.device("cpu"))

    def __call__(self, inputs: Any, index: Tensor, epoch: int) -> Any:
        """The inputs of the examples `index`, as stored, as the network sees them in that epoch."""
        if self._steps and (epoch != self._epoch or self._tables[0].device != index.device):
            self._draw(epoch, index.device)
        standardise = self._standardisation
        for step, table in zip(self._steps, self._tables, strict=True):
            if step.standardised and standardise is not None:
                inputs, standardise = standardise(inputs).to(self._dtype), None
            inputs = step(inputs, table[index])
        return inputs if standardise is None else standardise(inputs).to(self._dtype)

    def _draw(self, epoch: int, device: torch.device) -> None:
        self._epoch, self._tables = epoch, []
        for step, name in zip(self._steps, self._names, strict=True):
            try:
                drawn = step.draw(self._examples, self._shape, generator(self._seed, name, epoch))
            except ValueError as error:
                raise ValueError(f"augment: {error}") from error
            if len(drawn) != self._examples:
                raise ValueError(f"{name}: expected {self._examples} rows of random numbers, got {len(drawn)}")
            self._tables.append(drawn.to(device))


def _made(table: Mapping[str, Any]) -> Augmentation:
    if not isinstance(table.get("name"), str):
        raise ValueError(f'augment: expected tables such as {{name = "flip"}}, got {dict(table)}')
    made = augmentations.create(table["name"], {}, {key: value for key, value in table.items() if key != "name"})
    if not isinstance(made, Augmentation):
        raise ValueError(f"augment: expected an Augmentation from {table['name']!r}, got {type(made).__name__}")
    return made

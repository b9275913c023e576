"""The examples of one split as resident tensors; images may stay the bytes they are until a batch of them is taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landscape.data import nested


class Standardisation:
    """(x − mean) / deviation, in float32: of all pixels, or of each channel as (C, 1, 1)."""

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        self.mean, self.deviation = mean, deviation

    @classmethod
    def of(cls, images: Tensor, *, channels: bool = False) -> Standardisation:
        """The statistics of `images` (N, C, H, W), of all pixels or of each channel.

        Cost: a float32 copy of the images meanwhile.
        """
        pixels = images.float()
        if not channels:
            return cls(pixels.mean(), pixels.std())
        columns = pixels.transpose(0, 1).flatten(1)
        return cls(*(statistic[:, None, None] for statistic in (columns.mean(1), columns.std(1))))

    def __call__(self, images: Tensor) -> Tensor:
        """The images as a network takes them."""
        return (images.float() - self.mean).div_(self.deviation)

    def to(self, device: str | torch.device) -> Standardisation:
        """The same on `device`."""
        return Standardisation(self.mean.to(device), self.deviation.to(device))


class Split:
    """Inputs (N, …) and targets (N, …) of one split, as resident tensors; inputs may be a tuple or dict of such.

    With a `standardisation` the inputs are images stored as uint8 (N, C, H, W), standardised when they are taken.
    """

    def __init__(
        self,
        inputs: Any,
        targets: Any,
        standardisation: Standardisation | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.stored, self.targets = inputs, targets
        self.standardisation, self.dtype = standardisation, dtype

    def __len__(self) -> int:
        return nested.rows(self.targets)

    @property
    def inputs(self) -> Any:
        """All inputs as a network takes them; of stored images that is a copy four times as large or eight."""
        return self.take(slice(None))[0]

    def take(self, index: Tensor | slice) -> tuple[Any, Any]:
        """The examples `index` as a network takes them."""
        inputs, targets = self.raw(index)
        if self.standardisation is not None:
            inputs = self.standardisation(inputs).to(self.dtype)
        return inputs, targets

    def raw(self, index: Tensor | slice) -> tuple[Any, Any]:
        """The examples `index` as they are stored."""
        return nested.taken(self.stored, index), nested.taken(self.targets, index)

    @property
    def shape(self) -> Any:
        """Of one input."""
        return nested.mapped(lambda tensor: tuple(tensor.shape[1:]), self.stored)

    @property
    def device(self) -> torch.device:
        """Where the examples lie."""
        return next(nested.tensors(self.targets)).device

    @property
    def nbytes(self) -> int:
        """As stored."""
        return sum(tensor.nbytes for tensor in nested.tensors((self.stored, self.targets)))

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Split:
        """The same examples on `device`, floating-point numbers as `dtype`."""
        return Split(
            nested.placed(self.stored, torch.device(device), dtype),
            nested.placed(self.targets, torch.device(device), dtype),
            None if self.standardisation is None else self.standardisation.to(device),
            dtype,
        )

    def with_targets(self, targets: Tensor) -> Split:
        """The same inputs under other targets."""
        return Split(self.stored, targets, self.standardisation, self.dtype)

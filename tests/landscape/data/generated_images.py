"""Anybody's data that are no tensors: images made when they are asked for, in data sets, and in a source of its own."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from landscape.data import Data, Source, Split
from landscape.seeding import generator

CLASSES = 4


def wave(number: int) -> Tensor:
    """An image (1, 8, 8) of as many waves as its class says."""
    at = torch.arange(64).reshape(1, 8, 8) + number
    return torch.sin(at * (1 + number % CLASSES) / 5)


class Waves:
    """Images made when they are asked for; with `noise` each time with other noise, from all three global generators."""

    def __init__(self, examples: int, first: int = 0, noise: float = 0.0) -> None:
        self.examples, self.first, self.noise = examples, first, noise

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number = self.first + index
        noise = torch.rand(1, 8, 8) + float(np.random.rand()) + random.random() if self.noise else 0  # noqa: NPY002
        return wave(number) + self.noise * noise, number % CLASSES

    @property
    def targets(self) -> Tensor:
        return (self.first + torch.arange(self.examples)) % CLASSES


class Failing(Waves):
    """Has an example that cannot be fetched, or that takes its process with it."""

    how = "raise"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 37 and self.how == "raise":
            raise KeyError("no such image")
        if index == 37:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Dying(Failing):
    how = "die"


class Drifting(Waves):
    """Draws from a generator of its own, which goes on."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.random = getattr(self, "random", generator(0, "drift"))
        image, target = super().__getitem__(index)
        return image + torch.rand(1, generator=self.random), target


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield wave(0), 0


def waves(examples: int = 90, noise: float = 0.0) -> Data:
    train = Waves(examples, noise=noise)
    return Data(train, Waves(30, first=1000), CLASSES, unaugmented=Waves(examples) if noise else None)


def tensors(examples: int = 90) -> Data:
    """The same as tensors."""
    train, test = ([data[i] for i in range(len(data))] for data in (Waves(examples), Waves(30, first=1000)))
    splits = (Split(torch.stack([x for x, _ in part]), torch.tensor([y for _, y in part])) for part in (train, test))
    return Data(*splits, CLASSES)


def failing() -> Data:
    return Data(Failing(90), Waves(30, first=1000), CLASSES)


def dying() -> Data:
    return Data(Dying(90), Waves(30, first=1000), CLASSES)


def drifting() -> Data:
    return Data(Drifting(90), Waves(30, first=1000), CLASSES)


def endless() -> Data:
    return Data(Endless(), Waves(30), CLASSES)


def ragged() -> Data:
    return Data([(torch.zeros(1, 8, 8 + i), 0) for i in range(9)], Waves(9), CLASSES)


def alone() -> Data:
    return Data([torch.zeros(1, 8, 8)] * 9, Waves(9), CLASSES)


class OwnSource(Source):
    """Every epoch new images: of the same waves, each under the noise of (seed, epoch)."""

    def batches(self, epoch: int, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, Any]]:
        noise = torch.rand(self.examples, 1, 8, 8, generator=generator(self.seed, "noise", epoch))
        for index in self.shares(epoch, position, rank, world):
            yield torch.stack([wave(int(i)) for i in index]) + noise[index], index % CLASSES


class Impure(OwnSource):
    def batches(self, epoch: int, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, Any]]:
        for inputs, targets in super().batches(epoch, position, rank, world):
            yield inputs + torch.rand(()), targets


class Overlapping(OwnSource):
    """Every process gets the same examples."""

    def batches(self, epoch: int, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, Any]]:
        for inputs, targets in super().batches(epoch, position):
            yield inputs[: len(inputs) // world], targets[: len(inputs) // world]


class Whole(OwnSource):
    """Every process gets everything."""

    def batches(self, epoch: int, position: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, Any]]:
        return super().batches(epoch, position)


SOURCES = {"own": OwnSource, "impure": Impure, "overlapping": Overlapping, "whole": Whole}


def own_source(kind: str = "own", examples: int = 90) -> Data:
    return Data(Waves(examples), Waves(30, first=1000), CLASSES, source=SOURCES[kind]())


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, CLASSES))


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, CLASSES))

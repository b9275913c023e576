"""What a data set is: two splits of tensors, and label noise that reports what it really did.

Add one with `@datasets.register` on a function that returns a `Data`; anybody's function works by import path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from landscape.experiment import Experiment
from landscape.named import Named
from landscape.seeding import generator, isolated

datasets = Named("data set")


@dataclass(frozen=True)
class Split:
    """Inputs (N, …) and targets (N,) of one split, as resident tensors."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Split:
        """The same examples on `device`, floating-point inputs as `dtype`."""
        inputs = self.inputs.to(device, dtype if self.inputs.is_floating_point() else None)
        return Split(inputs, self.targets.to(device))


@dataclass(frozen=True)
class Data:
    """A data set: its splits, the number of classes, and which training labels are wrong (`flipped`, (N,) bool)."""

    train: Split
    test: Split
    classes: int
    flipped: Tensor | None = None

    @property
    def flip_rate(self) -> float:
        """The effective label noise: the fraction of training labels that differ from the true ones."""
        return 0.0 if self.flipped is None else self.flipped.double().mean().item()

    def split(self, name: str) -> Split:
        """The split called `train` or `test`."""
        if name not in ("train", "test"):
            raise ValueError(f"unknown split {name!r}: expected train or test")
        return self.train if name == "train" else self.test


def with_label_noise(data: Data, fraction: float, random: torch.Generator) -> Data:
    """Symmetric noise: exactly round(fraction·N) training labels are redrawn uniformly over *all* classes.

    A redrawn label is right by chance once in `classes`, so the expected effective rate is fraction·(1 − 1/classes).
    """
    targets = data.train.targets.clone()
    chosen = torch.randperm(len(targets), generator=random)[: round(fraction * len(targets))]
    targets[chosen] = torch.randint(data.classes, (len(chosen),), generator=random).to(targets.dtype)
    return replace(data, train=Split(data.train.inputs, targets), flipped=targets != data.train.targets)


def load(experiment: Experiment) -> Data:
    """The experiment's data set with its label noise, on the CPU.

    A factory that draws from the global generators finds them in one and the same state each time, whatever the seed.
    """
    with isolated(0, "data set"):
        data = datasets.create(experiment.data, {}, experiment.data_options)
    if not isinstance(data, Data):
        raise ValueError(
            f"data set {experiment.data!r}: expected its factory to return a landscape.data.Data, "
            f"got {type(data).__name__}"
        )
    for name in ("train", "test"):
        split = data.split(name)
        if not len(split) or len(split.inputs) != len(split):
            raise ValueError(
                f"data set {experiment.data!r}: expected as many inputs as targets and at least one, "
                f"got {len(split.inputs)} inputs and {len(split)} targets in {name}"
            )
    if experiment.label_noise:
        data = with_label_noise(data, experiment.label_noise, generator(experiment.seed, "label noise"))
    return data

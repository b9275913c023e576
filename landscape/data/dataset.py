"""What a data set is: two splits of tensors, and label noise that reports what it really did.

Add one with `@datasets.register` on a function that returns a `Data`; anybody's function works by import path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from landscape.experiment import Experiment
from landscape.named import Named
from landscape.seeding import generator, isolated
from optimizers.ground.rows import first_tensor

datasets = Named("data set")


@dataclass(frozen=True)
class Split:
    """Inputs (N, …) and targets (N, …) of one split, as resident tensors.

    Inputs are what the model takes: a tensor, a tuple of them (`model(*inputs)`) or a mapping (`model(**inputs)`).
    """

    inputs: Any
    targets: Any

    def __len__(self) -> int:
        return _length(self.targets)

    def __getitem__(self, index: Tensor | slice) -> Split:
        """The examples with these indices."""
        return Split(*pytree.tree_map(lambda tensor: tensor[index], self.parts))

    def batches(self, size: int) -> list[Split]:
        """In order, `size` examples in each, the last one perhaps smaller."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Split:
        """The same examples on `device`, floating-point numbers as `dtype`."""
        return Split(*pytree.tree_map(lambda t: t.to(device, dtype if t.is_floating_point() else None), self.parts))

    @property
    def parts(self) -> tuple[Any, Any]:
        """Inputs and targets."""
        return self.inputs, self.targets


@dataclass(frozen=True)
class Data:
    """A data set: its splits, the number of classes, and which training labels are wrong (`flipped`, (N,) bool).

    Without `classes` the targets are no labels, and nothing can be flipped.
    """

    train: Split
    test: Split
    classes: int | None = None
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


def _length(value: Any) -> int:
    tensor = first_tensor(value)
    return 0 if tensor is None or not tensor.ndim else len(tensor)


def with_label_noise(data: Data, fraction: float, random: torch.Generator) -> Data:
    """Symmetric noise: exactly round(fraction·N) training labels are redrawn uniformly over *all* classes.

    A redrawn label is right by chance once in `classes`, so the expected effective rate is fraction·(1 − 1/classes).
    """
    targets = data.train.targets
    if data.classes is None or not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
        raise ValueError("label_noise: expected a data set with labels (N,) and a number of classes, got other targets")
    targets = targets.clone()
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
        leaves = pytree.tree_leaves(split.parts)
        if not leaves or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves):
            raise ValueError(
                f"data set {experiment.data!r}: expected inputs and targets that are tensors of rows, or tuples or "
                f"mappings of them, got {', '.join(sorted({type(leaf).__name__ for leaf in leaves}))} in {name}"
            )
        wrong = [len(leaf) for leaf in leaves if len(leaf) != len(split)]
        if not len(split) or wrong:
            raise ValueError(
                f"data set {experiment.data!r}: expected as many inputs as targets and at least one, "
                f"got {wrong[0] if wrong else 0} inputs and {len(split)} targets in {name}"
            )
    if experiment.label_noise:
        data = with_label_noise(data, experiment.label_noise, generator(experiment.seed, "label noise"))
    return data

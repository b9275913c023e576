"""What a data set is: two splits of examples, and label noise that reports what it really did.

Add one with `@datasets.register` on a function that returns a `Data`; anybody's function works by import path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from landscape.data import nested
from landscape.data.fetched import Fetched
from landscape.data.source import Source
from landscape.data.split import Split
from landscape.experiment import Experiment
from landscape.named import Named
from landscape.seeding import generator, isolated

datasets = Named("data set")
IGNORED = -100  # the label that torch's losses pass over


@dataclass(frozen=True)
class Data:
    """A data set: its splits, the number of classes, and which training labels are wrong (`flipped`, (N,) bool).

    A split is a `Split` of tensors, or any map-style data set (`len(dataset)`, `dataset[i]` is (input, target)), which is
    read as it is needed. `unaugmented` has the training examples as evaluations see them, where `train` itself augments
    them. `source` brings the batches of training in the place of those drawn from `train`. Without `classes` the targets
    are no labels, and nothing can be flipped.
    """

    train: Any
    test: Any
    classes: int | None = None
    flipped: Tensor | None = None
    unaugmented: Any = None
    source: Source | None = None

    def __post_init__(self) -> None:
        """Take map-style data sets for what they are."""
        for name in ("train", "test", "unaugmented"):
            found = getattr(self, name)
            if not isinstance(found, Split | Fetched) and not (name == "unaugmented" and found is None):
                object.__setattr__(self, name, Fetched(found, name))

    @property
    def flip_rate(self) -> float:
        """The effective label noise: the fraction of training labels that differ from the true ones."""
        return 0.0 if self.flipped is None else self.flipped.double().mean().item()

    @property
    def input_shape(self) -> Any:
        """The shape of one input."""
        return self.train.shape

    def split(self, name: str) -> Split | Fetched:
        """The split called `train` or `test`, as evaluations see it: without augmentation."""
        if name not in ("train", "test"):
            raise ValueError(f"unknown split {name!r}: expected train or test")
        found: Split | Fetched = self.test if name == "test" else self.unaugmented or self.train
        return found


def with_label_noise(data: Data, fraction: float, random: torch.Generator) -> Data:
    """Symmetric noise: exactly round(fraction·N) training labels are redrawn uniformly over *all* classes.

    A redrawn label is right by chance once in `classes`, so the expected effective rate is fraction·(1 − 1/classes).
    """
    if data.source is not None:
        raise ValueError("label_noise: expected 0 for a source that makes its own batches; redraw the labels there")
    targets = data.train.targets
    if data.classes is None or not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
        raise ValueError("label_noise: expected a data set with labels (N,) and a number of classes, got other targets")
    targets = targets.clone()
    chosen = torch.randperm(len(targets), generator=random)[: round(fraction * len(targets))]
    targets[chosen] = torch.randint(data.classes, (len(chosen),), generator=random).to(targets.dtype)
    unaugmented = data.unaugmented and data.unaugmented.with_targets(targets)
    flipped = targets != data.train.targets
    return replace(data, train=data.train.with_targets(targets), unaugmented=unaugmented, flipped=flipped)


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
        _require_whole(f"data set {experiment.data!r}", name, data.split(name), data.classes)
    if len(data.split("train")) != len(data.train):
        raise ValueError(
            f"data set {experiment.data!r}: expected the same training examples unaugmented, got "
            f"{len(data.split('train'))} of {len(data.train)}"
        )
    if data.source is not None:
        data.source.seed, data.source.batch_size = experiment.seed, experiment.batch_size
        data.source.examples = data.source.examples or len(data.train)
    if experiment.label_noise:
        data = with_label_noise(data, experiment.label_noise, generator(experiment.seed, "label noise"))
    return data


def _require_whole(data: str, name: str, split: Split | Fetched, classes: int | None) -> None:
    """Refuse what would be found in the middle of a training, as far as a look at the tensors tells it."""
    if isinstance(split, Fetched):
        if not len(split):
            raise ValueError(f"{data}: expected at least one example in {name}, got none")
        return
    counts = {len(tensor) for tensor in nested.tensors((split.stored, split.targets))}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"{data}: expected as many inputs as targets and at least one, "
            f"got {len(next(nested.tensors(split.stored)))} inputs and {len(split)} targets in {name}"
        )
    for tensor in nested.tensors(split.stored):  # targets that are missing may be a matter of the task
        if tensor.is_floating_point() and not bool((finite := tensor.isfinite()).all()):
            row = int((~finite).nonzero()[0, 0])
            raise ValueError(f"{data}: expected finite inputs, got NaN or infinite ones in example {row} of {name}")
    labels = split.targets
    if isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point() and classes:
        wrong = ((labels < 0) & (labels != IGNORED)) | (labels >= classes)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"{data}: expected labels 0 to {classes - 1}, got {int(labels[row])} in example {row} of {name}"
            )

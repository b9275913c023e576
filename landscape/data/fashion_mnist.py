"""Fashion-MNIST: 60,000 and 10,000 photographs of clothes, 28×28 grey values, ten classes.

Xiao, Rasul, Vollgraf (2017), https://arxiv.org/abs/1708.07747; a data set of the SAM paper (Foret et al. 2021, Tab. 5).
"""

from __future__ import annotations

from pathlib import Path

import torch

from landscape.data.dataset import Data, datasets
from landscape.data.idx import find_idx, read_idx
from landscape.data.split import Split, Standardisation
from landscape.seeding import generator

CLASSES = 10
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it

FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}


def fashion_mnist(path: str = "", train_examples: int = 60_000, test_examples: int = 10_000) -> Data:
    """Fashion-MNIST as uint8, standardised by the mean and deviation of the training pixels used when a batch is taken.

    `path` is a folder with the four idx files (gzip or not), by default that of Debian's package. Fewer examples are the
    first of one fixed permutation, the same for every seed of an experiment.
    """
    folder = Path(path) if path else DEBIAN
    try:
        found = {name: find_idx(folder, stem) for name, stem in FILES.items()}
    except FileNotFoundError as error:
        raise ValueError(
            f"fashion-mnist: {error}; expected the four idx files of Fashion-MNIST: `apt-get install "
            "dataset-fashion-mnist` puts them where they are looked for, data_options path=FOLDER says where else they are"
        ) from error
    splits = {}
    for name, asked in (("train", train_examples), ("test", test_examples)):
        images, labels = read_idx(found[f"{name} images"], 3), read_idx(found[f"{name} labels"], 1)
        if len(images) != len(labels):
            raise ValueError(f"{folder}: expected as many labels as images in {name}, got {len(labels)}, {len(images)}")
        if bool((labels >= CLASSES).any()):
            row = int((labels >= CLASSES).nonzero()[0])
            raise ValueError(f"{found[f'{name} labels']}: expected labels 0 to 9, got {int(labels[row])} in row {row}")
        if not 0 < asked <= len(labels):
            raise ValueError(f"{name}_examples: expected 1 to {len(labels)}, got {asked}")
        if asked < len(labels):
            chosen = torch.randperm(len(labels), generator=generator(0, f"fashion-mnist {name}"))[:asked]
            images, labels = images[chosen], labels[chosen]
        splits[name] = images[:, None], labels.long()
    standardisation = Standardisation.of(splits["train"][0])
    train, test = (Split(images, labels, standardisation) for images, labels in splits.values())
    return Data(train=train, test=test, classes=CLASSES)


datasets.register(fashion_mnist, name="fashion-mnist")

"""Data sets: `load(experiment)` gives the examples of both splits, label noise applied; `Feed` what training is fed."""

from landscape.data import crop as _crop  # noqa: F401  (registers itself)
from landscape.data import cutout as _cutout  # noqa: F401
from landscape.data import digits as _digits  # noqa: F401
from landscape.data import fashion_mnist as _fashion_mnist  # noqa: F401
from landscape.data import flip as _flip  # noqa: F401
from landscape.data.augmentation import Augmentation, augmentations
from landscape.data.dataset import Data, datasets, load
from landscape.data.feed import Feed, Minibatch
from landscape.data.source import Source
from landscape.data.split import Split, Standardisation

__all__ = [
    "Augmentation",
    "Data",
    "Feed",
    "Minibatch",
    "Source",
    "Split",
    "Standardisation",
    "augmentations",
    "datasets",
    "load",
]

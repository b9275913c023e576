"""Data sets: `load(experiment)` gives the tensors of both splits, label noise applied."""

from landscape.data import digits as _digits  # noqa: F401  (registers itself)
from landscape.data import fashion_mnist as _fashion_mnist  # noqa: F401
from landscape.data.dataset import Data, Split, datasets, load

__all__ = ["Data", "Split", "datasets", "load"]

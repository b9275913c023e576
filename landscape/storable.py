"""Can this be stored? A checkpoint written to memory and forgotten, so that what cannot be is known before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py

from landscape.checkpoint_file import write_contents

_GROWTH = 2**22  # bytes; HDF5 makes its memory longer by as much at a time


def require_storable(contents: Mapping[str, Any]) -> None:
    """Raise what writing the checkpoint `contents` would raise of its own; the disk is not touched.

    Cost: one copy of the contents in memory meanwhile.
    """
    with h5py.File("nowhere", "w", driver="core", backing_store=False, block_size=_GROWTH) as file:
        write_contents(file, **contents)

"""Named random generators: every random number of a run comes from `generator(seed, name)`.

Streams with different names are independent, so drawing more numbers for one purpose (label noise, say) never shifts
another (the order of the data). A stream is a pure function of its name and the seed: nothing about it has to be stored
to draw it again, except for the global generator (dropout), whose state every checkpoint holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(seed: int, name: str, index: int = 0) -> int:
    """A 63-bit seed for the stream `name`, number `index` (an epoch, say), of a run with this `seed`."""
    digest = hashlib.sha256(f"{seed}/{name}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, name: str, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for the stream `name`."""
    return torch.Generator().manual_seed(seed_of(seed, name, index))


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Within the block torch's global CPU generator is the stream `name`; afterwards it is where it was.

    For code that draws from the global generator and cannot be handed one, such as a module's initialisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, name))
        yield

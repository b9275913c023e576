"""The method that an experiment names: a registered one, or anybody's class where `landscape.imports` lets it run."""

from __future__ import annotations

import optimizers
from landscape import imports


def described(name: str) -> optimizers.OptimizerInfo:
    """What is known of the method.

    Raises:
        PermissionError: A file names somebody's class, and nobody allowed it.
        ValueError: There is none of that name.
    """
    if ":" in name:
        imports.require("optimizer", name)
    return optimizers.describe(name)

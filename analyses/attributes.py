"""What an answer says of itself, in the forms that files take."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from landscape.objective.objective import Objective


def plain(value: Any) -> Any:
    """`value` as JSON can hold it; a vector is recorded by its shape, not its entries."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"array of shape {tuple(value.shape)}" if value.ndim and value.shape[0] > 64 else value.tolist()
    if isinstance(value, tuple | list | range):
        return [plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def describe(objective: Objective) -> dict[str, Any]:
    """The attributes that say of what the numbers are, and by which versions."""
    return {
        **{f"objective_{key}": as_attribute(value) for key, value in objective.description.items()},
        "torch_version": str(torch.__version__),  # a str subclass that HDF5 attributes do not take
        "toolkit_version": version("landscape-toolkit"),
    }


def as_attribute(value: Any) -> Any:
    """HDF5 attributes hold text, numbers and number arrays: a bool becomes 0 or 1, anything else its text."""
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value if isinstance(value, str | int | float | np.ndarray | np.number) else str(value)

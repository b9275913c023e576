"""A quantity measured on several batches: each batch's value, the mean, and the standard error of the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape.objective import Objective


def first_batches(objective: Objective, count: int) -> list[Any]:
    """The first `count` batches of the objective, or all where there are fewer; ValueError for a count below one."""
    if count < 1:
        raise ValueError(f"batches: expected at least 1; got {count}")
    return [batch for batch, _ in zip(objective.batches, range(count), strict=False)]


def add(dataset: xr.Dataset, name: str, values: Sequence[Tensor], *dims: str, units: str = "1", long_name: str) -> None:
    """Put `name` (batch, *dims), `name_mean` and `name_stderr` (*dims) into `dataset`, in place.

    `values` holds one tensor of dims `dims` for each batch. All move to the host together, here. The standard error
    over a single batch is unknown: NaN.
    """
    stacked = torch.stack(list(values)).cpu().double().numpy()
    deviation = stacked.std(0, ddof=1) if len(stacked) > 1 else np.full(stacked.shape[1:], np.nan)
    attributes = {"units": units, "long_name": long_name}
    dataset[name] = (("batch", *dims), stacked, attributes)
    dataset[f"{name}_mean"] = (dims, stacked.mean(0), attributes)
    dataset[f"{name}_stderr"] = (
        dims,
        deviation / np.sqrt(len(stacked)),
        {"units": units, "long_name": f"standard error over batches of the {long_name}"},
    )

"""A quantity measured on several batches: each batch's value, the mean, and the standard error of the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from analyses.spread import deviation
from landscape.objective import Objective


def drawn_batches(objective: Objective, count: int, seed: int) -> tuple[list[Any], list[int]]:
    """`count` different batches of the objective, drawn at random by `seed`, and their positions; all where fewer.

    The first ones in the order of the data would stand for the data only where that order means nothing. Positions
    ascend, so that one walk over the data finds them. ValueError for a count below one.
    """
    if count < 1:
        raise ValueError(f"batches: expected at least 1; got {count}")
    order = torch.randperm(len(objective.batches), generator=torch.Generator().manual_seed(seed))
    positions = sorted(order[:count].tolist())
    wanted = set(positions)
    return [batch for position, batch in enumerate(objective.batches) if position in wanted], positions


def add(dataset: xr.Dataset, name: str, values: Sequence[Tensor], *dims: str, units: str = "1", long_name: str) -> None:
    """Put `name` (batch, *dims), `name_mean` and `name_stderr` (*dims) into `dataset`, in place.

    `values` holds one tensor of dims `dims` for each batch. All move to the host together, here. The standard error
    over a single batch is unknown: NaN.
    """
    stacked = torch.stack(list(values)).cpu().double().numpy()
    attributes = {"units": units, "long_name": long_name}
    dataset[name] = (("batch", *dims), stacked, attributes)
    dataset[f"{name}_mean"] = (dims, stacked.mean(0), attributes)
    dataset[f"{name}_stderr"] = (
        dims,
        deviation(stacked) / np.sqrt(len(stacked)),
        {"units": units, "long_name": f"standard error over batches of the {long_name}"},
    )


def positioned(dataset: xr.Dataset, positions: Sequence[int]) -> xr.Dataset:
    """`dataset` with the places of its batches in the data.

    A variable and not the coordinate: runs with other batches stand beside each other over `batch`.
    """
    dataset["position"] = ("batch", list(positions), {"units": "1", "long_name": "place of the batch in the data"})
    return dataset

"""Parameters of torch's first FSDP: every rank refuses them by itself, also one that holds a single part, or none."""

import warnings

import pytest
import torch
from optimizer_training import BASES, create, over_methods
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("original", [False, True])
@over_methods
def test_flat_parameters_are_refused(method, original, rank):
    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=rank, world_size=2
    )  # shards, and sends nothing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = FullyShardedDataParallel(
                nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), use_orig_params=original, device_id=torch.device("cpu")
            )
        with pytest.raises(TypeError, match=r"got flat ones of FullyShardedDataParallel.*use torch.*fully_shard"):
            create(method, BASES["sgd"](model.parameters()))
    finally:
        torch.distributed.destroy_process_group()
    create(method, BASES["sgd"](nn.Linear(3, 2).parameters()))

"""What the processes of test_optimizer_distributed.py run: `torchrun optimizer_replicas.py CASE`."""

import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import optimizers
from landscape.distributed import process_group

sys.path.insert(0, str(Path(__file__).parents[1]))
from expectations import expected

warnings.simplefilter("ignore")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 3))


def batch(step: int, examples: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(examples, 5, generator=generator), torch.randint(0, 3, (examples,), generator=generator)


def shard(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    half = slice(dist.get_rank(), None, dist.get_world_size())
    x, y = batch(step)
    return x[half], y[half]


def make(method: str, model: nn.Module, **options: object) -> optimizers.SharpnessAware:
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return optimizers.create(method, base, **options)


def engine(model: nn.Module, **options: object) -> optimizers.SharpnessAware:
    return optimizers.SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options)


def train(model: nn.Module, optimizer: optimizers.SharpnessAware, data, steps: int) -> None:
    for step in range(steps):
        optimizer.step(optimizers.BatchClosure(model, nn.functional.cross_entropy, *data(step)))


def whole(parameter: torch.Tensor) -> torch.Tensor:
    parameter = parameter.detach()
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def equal_on_all_ranks(model: nn.Module) -> None:
    """Bit-identical parameters on both replicas."""
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert mine.isfinite().all()
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    assert all(torch.equal(mine, other) for other in gathered), (gathered[0] - gathered[1]).abs().max()


def close(left: nn.Module, right: nn.Module) -> None:
    for mine, other in zip(left.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(whole(mine), whole(other), rtol=1e-3, atol=1e-5)


def replicas() -> None:
    """Every method on two replicas: bit-identical after 200 steps, and close to one process with the whole batch."""
    for method in optimizers.available():
        particular = expected(method)
        model = DistributedDataParallel(network(), gradient_as_bucket_view=True)
        train(model, make(method, model, **particular.replicated), shard, 200)
        equal_on_all_ranks(model)
        alone, together = network(), DistributedDataParallel(network())
        train(alone, make(method, alone, **particular.alone), batch, 8)
        train(together, make(method, together, **particular.together), shard, 8)
        close(alone, together)
        for options, reason in particular.refused_on_replicas:
            with pytest.raises(ValueError, match=reason):
                train(together, make(method, together, **options), shard, 1)


def per_replica() -> None:
    """no_sync: each replica climbs along its own gradient, which is what parts do that are the replica's share."""
    model = DistributedDataParallel(network())
    train(model, engine(model, no_sync=model.no_sync), shard, 200)
    equal_on_all_ranks(model)

    model, alone = DistributedDataParallel(network()), network()
    train(model, engine(model, no_sync=model.no_sync), shard, 8)

    def sorted_by_rank(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch(step)
        return torch.cat([x[0::2], x[1::2]]), torch.cat([y[0::2], y[1::2]])

    train(alone, engine(alone, m=8), sorted_by_rank, 8)
    close(alone, model)


def split_up() -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    model = network()
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return model


def sharded() -> None:
    """FSDP2: norms run over all shards, so the training is that of one process; what cannot be is refused."""
    for method in optimizers.available():
        alone, model = network(), split_up()
        if not optimizers.describe(method).shards:  # it differentiates twice
            with pytest.raises(ValueError, match=r"expected whole parameters, got sharded ones; use Distr.*, or sam"):
                make(method, model)
            continue
        single, split = make(method, alone, **expected(method).alone), make(method, model, **expected(method).together)
        train(alone, single, batch, 8)
        train(model, split, shard, 8)
        close(alone, model)
        length = torch.cat([e.flatten() for e in single.perturbation()]).norm()
        mine = torch.stack([e.square().sum() for e in split.perturbation()]).sum()
        dist.all_reduce(mine)
        torch.testing.assert_close(mine.sqrt(), length, rtol=1e-3, atol=1e-6)

    for method in optimizers.available():
        if expected(method).replicas_are_shards:  # each replica chooses among its own examples
            model, copies = split_up(), DistributedDataParallel(network())
            train(model, make(method, model), shard, 20)
            train(copies, make(method, copies), shard, 20)
            close(model, copies)
        for options, reason in expected(method).refused_on_shards:
            model = split_up()
            with pytest.raises(ValueError, match=reason):
                train(model, make(method, model, **options), shard, 1)
            close(model, network())


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu"):  # and left so that no thread of gloo outlives it
        {"replicas": replicas, "per_replica": per_replica, "sharded": sharded}[sys.argv[1]]()
        print(f"rank {os.environ['RANK']}: {sys.argv[1]} done", flush=True)
        dist.barrier()

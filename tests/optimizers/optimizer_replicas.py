"""What the processes of test_optimizer_distributed.py run: `torchrun optimizer_replicas.py CASE`."""

import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import optimizers

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


def train(method: str, model: nn.Module, optimizer: optimizers.SharpnessAware, data, steps: int) -> None:
    for step in range(steps):
        optimizer.step(optimizers.BatchClosure(model, nn.functional.cross_entropy, *data(step)))


def equal_on_all_ranks(model: nn.Module) -> None:
    """Bit-identical parameters on both replicas."""
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert mine.isfinite().all()
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    assert all(torch.equal(mine, other) for other in gathered), (gathered[0] - gathered[1]).abs().max()


def replicas() -> None:
    """Every method on two replicas: bit-identical after 200 steps, and close to one process with the whole batch."""
    for method in optimizers.available():
        model = DistributedDataParallel(network(), gradient_as_bucket_view=True)
        optimizer = make(method, model)
        train(method, model, optimizer, shard, 200 if method in ("sam", "msam", "looksam", "budget_sam") else 20)
        equal_on_all_ranks(model)
        if method not in ("esam", "m_sam"):  # these choose among their own examples
            alone, together = network(), DistributedDataParallel(network())
            train(method, alone, make(method, alone), batch, 8)
            train(method, together, make(method, together), shard, 8)
            for left, right in zip(alone.parameters(), together.parameters(), strict=True):
                torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def per_replica() -> None:
    """no_sync: each replica climbs along its own gradient, which is m-SAM with m = the replica's share."""
    model = DistributedDataParallel(network())
    optimizer = make("sam", model, no_sync=model.no_sync)
    train("sam", model, optimizer, shard, 200)
    equal_on_all_ranks(model)

    model, alone = DistributedDataParallel(network()), network()
    train("sam", model, make("sam", model, no_sync=model.no_sync), shard, 8)

    def sorted_by_rank(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch(step)
        return torch.cat([x[0::2], x[1::2]]), torch.cat([y[0::2], y[1::2]])

    train("m_sam", alone, make("m_sam", alone, m=8), sorted_by_rank, 8)
    for left, right in zip(alone.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def sharded() -> None:
    """FSDP2: norms run over all shards, so the training is that of one process."""
    from torch.distributed.fsdp import fully_shard

    for method in optimizers.available():
        if method in ("random", "second_order_sam", "m_sam", "esam"):
            continue
        alone, model = network(), network()
        for layer in model:
            if list(layer.parameters()):
                fully_shard(layer)
        fully_shard(model)
        assert any(isinstance(p, DTensor) for p in model.parameters())
        single, split = make(method, alone), make(method, model)
        for step in range(8):
            single.step(optimizers.BatchClosure(alone, nn.functional.cross_entropy, *batch(step)))
            split.step(optimizers.BatchClosure(model, nn.functional.cross_entropy, *shard(step)))
        for left, right in zip(alone.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(left.detach(), right.detach().full_tensor(), rtol=1e-3, atol=1e-5)
        if method == "multistep_sam":
            continue
        whole = torch.cat([e.flatten() for e in single.perturbation()]).norm()
        mine = torch.stack([e.square().sum() for e in split.perturbation()]).sum()
        dist.all_reduce(mine)
        torch.testing.assert_close(mine.sqrt(), whole, rtol=1e-3, atol=1e-6)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    {"replicas": replicas, "per_replica": per_replica, "sharded": sharded}[sys.argv[1]]()
    print(f"rank {os.environ['RANK']}: {sys.argv[1]} done", flush=True)
    dist.barrier()
    dist.destroy_process_group()

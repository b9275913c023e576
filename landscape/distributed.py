r"""One training run on many processes, started by `torchrun`: every process holds the model and a share of each batch.

    ∇L_B = Σ_r (|B_r| / |B|) ∇L_{B_r}          one all-reduce for each gradient the method takes

So L_B is the loss of the whole batch: the perturbation ε is one and the same everywhere (for one of each process's own
share, m-sharpness, wrap your model and use the optimizers' `no_sync`), and every method computes what it computes in one
process, up to the order of summation. BatchNorm normalises over its own process's share; convert the model with
`torch.nn.SyncBatchNorm.convert_sync_batchnorm` for that of the whole batch. Process 0 writes the files.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from landscape import group_threads
from landscape.devices import usable_device

_groups = itertools.count()


@contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, if it did, and yield this one's device; leave them at the end.

    `cuda` means one accelerator for each process, by its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield usable_device(device)
        return
    chosen = usable_device(device)
    if chosen.type != "cpu" and chosen.index is None:
        chosen = torch.device(chosen.type, int(os.environ["LOCAL_RANK"]))
        torch.get_device_module(chosen).set_device(chosen)
    _join("gloo" if chosen.type == "cpu" else None)
    try:
        yield chosen
    finally:
        leave()


def _join(backend: str | None) -> None:
    """Make the group, under a name of its own in the launcher's store.

    There the addresses of a group that was left still stand under the names that torch would use again, and a second
    training in the same processes would wait for connections to them for ever.
    """
    from torch.distributed.rendezvous import rendezvous  # not in every torch

    store, number, count = next(iter(rendezvous("env://")))
    name = f"group {next(_groups)}"  # the same everywhere: all processes join the same groups in the same order
    distributed.init_process_group(backend, store=distributed.PrefixStore(name, store), rank=number, world_size=count)


def leave() -> None:
    """Leave the group and see that nothing of it is alive when the process ends, which would abort it (`group_threads`)."""
    distributed.destroy_process_group()
    group_threads.wait_until_idle()


def rank() -> int:
    """The number of this process, 0 where there is only one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        distributed.barrier()


def share(index: Tensor) -> Tensor:
    """The part of a batch of examples that falls to this process.

    Raises ValueError where there are fewer examples than processes.
    """
    return share_of(index, rank(), world_size())


def share_of(index: Tensor, number: int, processes: int) -> Tensor:
    """The part of a batch of examples that falls to process `number` of `processes`."""
    if len(index) < processes:
        raise ValueError(
            f"expected at least one example for each of {processes} processes in every batch and split, "
            f"got {len(index)}; choose fewer processes, or a batch_size that leaves more for the last batch of an epoch"
        )
    return index.tensor_split(processes)[number] if processes > 1 else index


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums of `tensors` over all processes, as one message."""
    if world_size() == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    return [
        part.view_as(tensor) for part, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)
    ]


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Add up all processes' gradients in place, and return the sum of their losses."""
    if world_size() == 1:
        return loss
    gradients = [p.grad for p in parameters if p.grad is not None]
    *sums, total = sum_over_processes([*gradients, loss.detach().reshape(1).to(gradients[0].dtype)])
    torch._foreach_copy_(gradients, sums)
    return total.reshape(()).to(loss.dtype)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process: a decision that all of them take together."""
    if world_size() == 1:
        return flag
    device = "cpu" if distributed.get_backend() == "gloo" else f"cuda:{torch.cuda.current_device()}"
    found = torch.tensor([float(flag)], device=device)
    distributed.all_reduce(found)
    return bool(found.item() > 0)


def gather(value: Any) -> list[Any]:
    """`value` of every process, in the order of their numbers."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, value)
    return found

r"""Is L(θ) one function? An objective must give one value at one θ, and leave the model as it was.

Random numbers drawn in a forward pass, statistics updated by it, and batches that differ from walk to walk make
every curvature product a sample of something else; a Krylov method then converges, to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from landscape.objective import Objective


def refuse_random_modules(model: nn.Module) -> None:
    """Raise `ValueError` for dropout that draws and BatchNorm that updates its statistics in the modules' present
    mode.
    """
    for name, module in model.named_modules():
        if not module.training:
            continue
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            raise ValueError(
                f"{where} is in training mode: its statistics depend on the batch and every evaluation changes them; "
                'use mode="eval" or put the layer in eval mode'
            )
        draws = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        draws |= isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0
        if draws or isinstance(module, nn.RReLU):
            raise ValueError(
                f'{where} is in training mode and makes the loss random; use mode="eval" or put the layer in eval mode'
            )


def require_deterministic(objective: Objective, theta: Tensor) -> None:
    """Raise `ValueError`, naming cause and cure, where two evaluations on the first batch are not one and the same.

    Exact where the cause is torch's: the generators' states and the model's buffers must not move. Anything else shows
    as two losses that differ by more than rounding. Random state and buffers are put back. Cost: two forward passes
    over one batch.
    """
    if not isinstance(objective.batches.source, list | tuple):
        first, again = next(objective.batches.walk(), None), next(objective.batches.walk(), None)
        if first is None or again is None or not _same(tuple(first), tuple(again)):
            raise ValueError(
                "the batches differ from one walk to the next: a shuffling or augmenting loader, or one without data; "
                "use shuffle=False and no random augmentation, or pass list(loader)"
            )
    batch = next(objective.batches.walk())
    buffers = {name: buffer.clone() for name, buffer in objective.model.named_buffers()}
    state = _random_state(objective.device)
    with torch.no_grad(), objective.running():
        parameters = objective.space.unflatten(theta)
        losses = torch.stack([objective.batch_loss(parameters, batch) for _ in range(2)]).double().cpu()
    drew = not _same(state, _random_state(objective.device))
    changed = [n for n, buffer in objective.model.named_buffers() if not _same(buffer, buffers[n])]
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1], objective.device)
    for name in changed:
        objective.model.get_buffer(name).copy_(buffers[name])
    if drew:
        raise ValueError(
            "the forward pass draws random numbers, so the loss at one θ is not one number: dropout or noise that "
            "ignores eval mode? Switch it off for the measurement"
        )
    if changed:
        raise ValueError(
            f"a forward pass changes the buffers {', '.join(changed)}, so the loss depends on how often it was asked; "
            "freeze them for the measurement"
        )
    low = torch.finfo(
        torch.get_autocast_dtype(objective.device.type) if objective.function.autocast else objective.dtype
    ).eps
    if bool(((losses[0] - losses[1]).abs() > 100 * low * losses.abs().max()) & losses.isfinite().all()):
        raise ValueError(
            f"two evaluations of one batch at one θ gave {losses[0]:.9g} and {losses[1]:.9g}: the model or the loss is "
            "random or keeps state; switch that off for the measurement"
        )


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    state = (torch.get_rng_state(),)
    return (*state, torch.cuda.get_rng_state(device)) if device.type == "cuda" else state


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num() if one.is_floating_point() else one, _comparable(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _comparable(tensor: Tensor) -> Tensor:
    return tensor.nan_to_num() if tensor.is_floating_point() else tensor

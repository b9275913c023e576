"""A gradient kept beside the parameters for the next step: the closure will overwrite or drop the one it was."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.core import norms
from optimizers.core.norms import Gradient
from optimizers.core.seen import Seen


def keep(optimizer: Seen, key: str, gradient: Gradient) -> Tensor:
    """Copy `gradient` into the state under `key`; a parameter that is not in it loses its own. Returns its norm.

    One that is not finite is kept as zero, of norm 0, and counted: there will be no ascent along it.
    """
    finite = gradient.norm.isfinite()
    optimizer.count_skipped_ascent((~finite).int())
    present = set(gradient.parameters)
    for parameter in optimizer.parameters:
        if parameter not in present:
            optimizer.state[parameter].pop(key, None)
    kept = norms.finite_or_zero(gradient.tensors, finite)
    for parameter, new, seen in zip(gradient.parameters, kept, gradient.tensors, strict=True):
        state = optimizer.state[parameter]
        if new is not seen:
            state[key] = new  # made for us
        else:
            state[key] = state[key].copy_(new) if key in state else new.clone()
    return torch.where(finite, gradient.norm, 0.0)


def kept(optimizer: Seen, key: str) -> Gradient:
    """What is kept under `key`, of the parameters that are not frozen."""
    held = [p for p in optimizer.parameters if p.requires_grad and key in optimizer.state[p]]
    return Gradient(held, [optimizer.state[p][key] for p in held])

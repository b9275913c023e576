"""Random numbers that depend on nothing but what is saved: asking again gives the same, and a resumed run draws on."""

from __future__ import annotations

import torch
from torch import Tensor

_STRIDE = 0x9E3779B1  # odd and far from any number of steps: the draws of one seed are not those of the next, shifted


def generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for the draws of this step."""
    return torch.Generator(device).manual_seed((seed * _STRIDE + step) % 2**32)  # torch's on the host takes 32 bits


def peeked(state: Tensor) -> tuple[float, Tensor]:
    """The next number in [0, 1) of a generator in this state, and its state afterwards; the state itself stays."""
    copied = torch.Generator()
    copied.set_state(state.cpu())
    return float(torch.rand((), generator=copied)), copied.get_state()

"""Random numbers of one step as a function of (seed, step): asking again gives the same, and a resumed run draws on."""

from __future__ import annotations

import torch

_STRIDE = 0x9E3779B1  # odd and far from any number of steps: the draws of one seed are not those of the next, shifted


def generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for the draws of this step."""
    return torch.Generator(device).manual_seed((seed * _STRIDE + step) % 2**32)  # torch's on the host takes 32 bits

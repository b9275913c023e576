"""Adaptive SAM's ball is ‖T⁻¹ε‖ = ρ, T = |w| + 0.01 but for biases."""

import torch
from expectations import Expected


def length(training, epsilon):
    parts = [
        e.flatten() if "bias" in n else e.flatten() / (p.detach().abs().flatten() + 0.01)
        for e, (n, p) in zip(epsilon, training.model.named_parameters(), strict=True)
    ]
    return float(torch.cat(parts).norm())


EXPECTED = Expected(compiles_step=True, length=length, other_settings={"tensors": ({}, {"adapts": "weights"})})

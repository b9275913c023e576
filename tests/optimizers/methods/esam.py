"""ESAM leaves out some tensors each time, and moves the others 1/β times as far as SAM would."""

import torch
from expectations import Expected, euclidean


def length(training, epsilon):
    gradients = [torch.zeros(()) if p.grad is None else p.grad.norm() for p in training.model.parameters()]
    moved = [g for g, e in zip(gradients, epsilon, strict=True) if e.any()]
    assert 0 < len(moved) < len(gradients)
    return float(euclidean(training, epsilon) * 0.5 * torch.stack(gradients).norm() / torch.stack(moved).norm())


# It chooses among the examples of its replica, so to be one process with the whole batch it takes all.
EXPECTED = Expected(
    length=length,
    draws_by_gradients=True,
    copied_with={"beta": 1.0},
    other_settings={"gamma": ({}, {"gamma": 1.0})},
    alone={"gamma": 1.0},
    together={"gamma": 1.0},
    replicas_are_shards=True,
)

r"""The power iteration on the Hessian of a step's batch, one product at a time, over the course of a training.

    v ← H v/‖H v‖,   from v = ĝ

v tends to the eigenvector of the largest |λ|, and its sign means nothing. It is kept beside each parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.core import norms
from optimizers.core.closures import batch_closure
from optimizers.core.step import Step

_KEY = "eigenvector"


def eigenvector(step: Step) -> list[Tensor]:
    """The v of now beside each parameter of the gradient at w, zero before the first product."""
    states = [step.optimizer.state[parameter] for parameter in step.clean.parameters]
    return [s[_KEY] if _KEY in s else torch.zeros_like(g) for s, g in zip(states, step.clean.tensors, strict=True)]


def iterate(step: Step) -> None:
    """One product at w, BatchNorm frozen; v stays where it is not finite, and that is counted as a skipped ascent.

    Costs and counts as two gradients.
    """
    batch = batch_closure(step.closure, f"{type(step.optimizer).__name__} differentiates twice")
    parameters = step.clean.parameters
    with step.optimizer.frozen_batch_norms():
        products = batch.hessian_product(parameters, _start(step))
    step.count(2)
    length = norms.norm(products, parameters)
    step.optimizer.count_skipped_ascent((~length.isfinite()).int())
    inverse = norms.inverse(length)
    for parameter, old, product in zip(parameters, eigenvector(step), products, strict=True):
        new = (norms.widened(product) * inverse.to(product.device)).to(old.dtype)
        step.optimizer.state[parameter][_KEY] = torch.where((inverse > 0).to(old.device), new, old)


def _start(step: Step) -> list[Tensor]:
    """v, or ĝ before the first product."""
    start = [vector.clone() for vector in eigenvector(step)]
    first = torch.where(norms.norm(start, step.clean.parameters) == 0, norms.inverse(step.clean.norm), 0.0)
    for vector, g in zip(start, norms.finite_or_zero(step.clean.tensors, step.clean.norm.isfinite()), strict=True):
        norms.add_scaled(vector, g, first)
    return start

r"""A likelihood as the function of the outputs whose second derivative is its Fisher matrix, averaged as the loss is.

`landscape.objective.gauss_newton` lists the formulas and how they compare with other libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from landscape.objective.batches import Batch
from landscape.objective.loss_average import CLASSES, TorchLoss
from landscape.objective.loss_of_theta import LossOfTheta

Likelihood = Literal["categorical", "gaussian", "bernoulli"] | Callable[[Any], Tensor]


def normaliser(objective: LossOfTheta, likelihood: Likelihood | None) -> Callable[[Any, Batch], Tensor]:
    """ℓ(f, batch) with ∇²ℓ the Fisher matrix of `likelihood`, by default that of the objective's loss.

    `ValueError` for a likelihood that is not known, and for class weights where targets are probabilities: what they
    weigh is then a matter of taste.
    """
    loss = objective.function.torch_loss
    likelihood = likelihood or _of(objective)
    if callable(likelihood):
        function = likelihood
        return lambda output, _: function(output)
    if likelihood == "categorical":
        return lambda output, batch: _categorical(_tensor(output, loss), batch, loss)
    if likelihood == "bernoulli":
        return lambda output, batch: _bernoulli(_tensor(output, loss), batch, loss)
    if likelihood == "gaussian":

        def gaussian(output: Any, batch: Batch) -> Tensor:
            # A mean over rows, where the operator weighs batches by what the loss is a mean over: entries, perhaps.
            share = (batch.examples / objective.examples) / (batch.weight / objective.weight)
            values = _tensor(output, loss)
            return share * 0.5 * values.square().sum() / values.shape[0]

        return gaussian
    raise ValueError(
        f'expected likelihood="categorical", "bernoulli", "gaussian" or a function of the outputs, got {likelihood!r}'
    )


def _categorical(output: Tensor, batch: Batch, loss: TorchLoss | None) -> Tensor:
    terms = torch.logsumexp(output, dim=1 if output.ndim > 1 else 0)
    if loss is None or not loss.by_class or not isinstance(batch.targets, Tensor):
        return terms.mean()
    if batch.targets.is_floating_point() and loss.settings.get("weight") is not None:
        raise ValueError(
            "the loss has class weights and its targets are probabilities: no one Fisher matrix belongs to that; "
            "pass likelihood=a function of the outputs, or ask for the Gauss–Newton matrix"
        )
    weights = loss.denominators(batch.targets).to(output.dtype)
    return (weights * terms).sum() / weights.sum()


def _bernoulli(output: Tensor, batch: Batch, loss: TorchLoss | None) -> Tensor:
    terms = F.softplus(output)
    settings = {} if loss is None else loss.settings
    for weight in (settings.get("weight"), _positive(settings.get("pos_weight"), batch.targets)):
        if weight is not None:
            terms = terms * weight.to(output)
    return terms.mean()


def _positive(pos_weight: Tensor | None, targets: Any) -> Tensor | None:
    """What `pos_weight` multiplies the curvature of an entry by: itself for a target of 1, 1 for a target of 0."""
    return None if pos_weight is None else 1 + (pos_weight.to(targets.device) - 1) * targets


def _tensor(output: Any, loss: TorchLoss | None) -> Tensor:
    """The outputs that the likelihood is of."""
    output = output if loss is None else loss.of_outputs(output)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"expected outputs that are one tensor, got {type(output).__name__}; pass likelihood=function of the outputs"
        )
    return output


def _of(objective: LossOfTheta) -> Likelihood:
    loss = objective.function.torch_loss
    if loss is not None and loss.function in CLASSES.values():
        return "categorical"
    if loss is not None and loss.function is F.mse_loss:
        return "gaussian"
    if loss is not None and loss.function is F.binary_cross_entropy_with_logits:
        return "bernoulli"
    raise ValueError(
        f"cannot tell the likelihood that the loss {objective.loss_fn!r} stands for; "
        'pass likelihood="categorical", "bernoulli", "gaussian" or a function of the outputs'
    )

r"""The generalized Gauss–Newton and Fisher matrices: curvature of the loss in the outputs, pulled back to the
parameters.

    G = Σ_b (W_b/W) J_bᵀ ∇²ℓ_b J_b        J_b = ∂f_b/∂θ the outputs' Jacobian, ∇²ℓ_b taken in the outputs f

Both Fisher matrices are G of another pair (f, ℓ). With w the weights that the loss gives to its terms (class weights by
the target, 0 for ignored targets, `pos_weight`; 1 elsewhere):

    categorical  ℓ = Σ_i w_i log Σ_c exp f_ic / Σ_i w_i      diag p − p pᵀ at each position i
    bernoulli    ℓ = Σ_ic w_ic log(1 + exp f_ic) / entries   p (1 − p) at each entry
    gaussian     ℓ = ½ Σ_i ‖f_i‖² / rows                     the identity for each example: unit variance
    empirical    f_i = ℓ_i(θ) the loss of each row, ℓ = ½ Σ_i W_i f_i² / Σ_i W_i, so that G = Σ_i W_i g_i g_iᵀ / Σ_i W_i

Categorical and bernoulli equal the Gauss–Newton matrix of their loss, and curvlinops' `GGNLinearOperator` and the
expectation of its `FisherMCLinearOperator` for a loss with reduction "mean". The gaussian one is the sum over an
example's d outputs where `MSELoss` takes the mean: d/2 times curvlinops' (and `objective.ggn()`). The empirical one
takes a row as an example, with the mean of its terms as its loss, as hessian-eigenthings does; curvlinops'
`EFLinearOperator` takes each position, with the sum over its d entries: d times ours for MSE and BCE of (N, d) outputs,
the same for cross-entropy of (N, classes).

J v is the derivative in u of the linear map u ↦ Jᵀu, so that no operation needs forward-mode derivatives.

References: Schraudolph (2002); Martens (2020), J. Mach. Learn. Res. 21, sections 8, 9 and 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from landscape.objective.batches import Batch
from landscape.objective.curvature_operator import Blocks, CurvatureOperator, Sized
from landscape.objective.likelihood import Likelihood, normaliser
from landscape.objective.loss_of_theta import LossOfTheta
from landscape.objective.pullback import Pullback

Outputs = Callable[[Mapping[str, Tensor], Batch], Any]
Outer = Callable[[Any, Batch], Tensor]


def gauss_newton_operator(objective: LossOfTheta, theta: Tensor, *, memory: int | None) -> CurvatureOperator:
    """G of the model's outputs and the objective's loss."""
    function = objective.function
    return _operator(objective, theta, function.output, lambda f, batch: function.loss_fn(f, batch.targets), memory)


def fisher_operator(
    objective: LossOfTheta, theta: Tensor, likelihood: Likelihood | None, *, memory: int | None
) -> CurvatureOperator:
    """The Fisher matrix of the model's own predictions."""
    return _operator(objective, theta, objective.function.output, normaliser(objective, likelihood), memory)


def empirical_fisher_operator(objective: LossOfTheta, theta: Tensor, *, memory: int | None) -> CurvatureOperator:
    """The mean of g_i g_iᵀ over examples."""

    def losses(parameters: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        each = objective.batches.row_weights(batch)
        rows = [row for row, weight in enumerate(each) if weight]
        found = objective.function.example_losses(parameters, batch, rows)
        return found, torch.tensor([each[row] for row in rows], dtype=found.dtype, device=found.device)

    def outer(found: tuple[Tensor, Tensor], _: Batch) -> Tensor:
        loss, weight = found
        return 0.5 * (weight * loss.square()).sum() / weight.sum()

    return _operator(objective, theta, losses, outer, memory)


def _operator(
    objective: LossOfTheta, theta: Tensor, outputs: Outputs, outer: Outer, memory: int | None
) -> CurvatureOperator:
    def graph(batch: Batch) -> Sized:
        leaves = objective.leaves(theta)
        product = objective.function.at(leaves, lambda: _GaussNewton(outputs, outer, leaves, batch))
        return objective.function.replayed(leaves, product)

    return CurvatureOperator.sized(objective, graph, [], memory)


class _GaussNewton:
    """v ↦ Jᵀ ∇²ℓ J v of one batch, by three passes through kept graphs."""

    def __init__(self, outputs: Outputs, outer: Outer, leaves: dict[str, Tensor], batch: Batch) -> None:
        parameters = list(leaves.values())
        with torch.enable_grad():
            found, structure = pytree.tree_flatten(outputs(leaves, batch))
            places = [i for i, entry in enumerate(found) if isinstance(entry, Tensor) and entry.requires_grad]
            values = [found[i] for i in places]
            inner = [value.detach().requires_grad_() for value in values]
            for place, value in zip(places, inner, strict=True):
                found[place] = value
            loss = outer(pytree.tree_unflatten(found, structure), batch)
            slope = torch.autograd.grad(loss, inner, create_graph=True, allow_unused=True, materialize_grads=True)
            if all(entry.grad_fn is None for entry in slope):
                raise ValueError(
                    "the loss is linear in the model's outputs, so its Gauss–Newton matrix is zero; does the model "
                    "return its own loss? Let loss_fn compute it from the outputs"
                )
            cotangents = [torch.zeros_like(value, requires_grad=True) for value in values]
            pulled = torch.autograd.grad(
                values, parameters, cotangents, create_graph=True, allow_unused=True, materialize_grads=True
            )
        self._push = Pullback(pulled, cotangents)  # v ↦ J v
        self._curve = Pullback(slope, inner)  # w ↦ ∇²ℓ w
        self._pull = Pullback(values, parameters)  # u ↦ Jᵀ u

    def __call__(self, blocks: Blocks) -> Blocks:
        return self._pull(self._curve(self._push(blocks)))

    def held_bytes(self) -> int:
        """Bytes of the tensors that the graphs keep alive."""
        return self._push.held_bytes() + self._curve.held_bytes()

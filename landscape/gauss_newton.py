r"""The generalized Gauss–Newton and Fisher matrices: curvature of the loss in the outputs, pulled back to the
parameters.

    G = Σ_b (N_b/N) J_bᵀ ∇²ℓ_b J_b        J_b = ∂f_b/∂θ the outputs' Jacobian, ∇²ℓ_b taken in the outputs f

Both Fisher matrices are G of another pair (f, ℓ):

    true       f the model's outputs, ℓ a function whose ∇²ℓ is the Fisher matrix of the likelihood in them:
               mean_i log Σ_c exp f_ic (categorical: diag p − p pᵀ),  ½ mean_i ‖f_i‖² (Gaussian of unit variance: I)
    empirical  f_i = ℓ_i(θ) the loss of each example, ℓ = ½ mean_i f_i², so that G = mean_i g_i g_iᵀ

J v is the derivative in u of the linear map u ↦ Jᵀu, so that no operation needs forward-mode derivatives.

References: Schraudolph (2002); Martens (2020), J. Mach. Learn. Res. 21, sections 8, 9 and 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from landscape.batches import Batch
from landscape.curvature_operator import Blocks, CurvatureOperator
from landscape.pullback import Pullback

if TYPE_CHECKING:
    from landscape.objective import Objective

Likelihood = Literal["categorical", "gaussian"] | Callable[[Any], Tensor]
Outputs = Callable[[Mapping[str, Tensor], Batch], Any]


def gauss_newton_operator(objective: Objective, theta: Tensor, *, memory: int | None) -> CurvatureOperator:
    """G of the model's outputs and the objective's loss."""
    return _operator(objective, theta, objective.function.output, objective.loss_fn, memory)


def fisher_operator(
    objective: Objective, theta: Tensor, likelihood: Likelihood | None, *, memory: int | None
) -> CurvatureOperator:
    """The Fisher matrix of the model's own predictions."""
    normaliser = _normaliser(likelihood or _likelihood_of(objective.loss_fn))
    return _operator(objective, theta, objective.function.output, lambda output, _: normaliser(output), memory)


def empirical_fisher_operator(objective: Objective, theta: Tensor, *, memory: int | None) -> CurvatureOperator:
    """The mean of g_i g_iᵀ over examples."""
    return _operator(
        objective, theta, objective.function.example_losses, lambda losses, _: 0.5 * losses.square().mean(), memory
    )


def _operator(
    objective: Objective,
    theta: Tensor,
    outputs: Outputs,
    outer: Callable[[Any, Any], Tensor],
    memory: int | None,
) -> CurvatureOperator:
    def graph(batch: Batch) -> _GaussNewton:
        return _GaussNewton(outputs, outer, objective.leaves(theta), batch)

    return CurvatureOperator.sized(objective, graph, [], memory)


class _GaussNewton:
    """v ↦ Jᵀ ∇²ℓ J v of one batch, by three passes through kept graphs."""

    def __init__(
        self, outputs: Outputs, outer: Callable[[Any, Any], Tensor], leaves: dict[str, Tensor], batch: Batch
    ) -> None:
        parameters = list(leaves.values())
        with torch.enable_grad():
            found, structure = pytree.tree_flatten(outputs(leaves, batch))
            places = [i for i, entry in enumerate(found) if isinstance(entry, Tensor) and entry.requires_grad]
            values = [found[i] for i in places]
            inner = [value.detach().requires_grad_() for value in values]
            for place, value in zip(places, inner, strict=True):
                found[place] = value
            loss = outer(pytree.tree_unflatten(found, structure), batch.targets)
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


def _normaliser(likelihood: Likelihood) -> Callable[[Any], Tensor]:
    """ℓ(f) with ∇²ℓ the likelihood's Fisher matrix, a mean over rows; classes are dimension 1, as torch's losses have
    it.
    """
    if callable(likelihood):
        return likelihood
    if likelihood == "categorical":
        return lambda output: torch.logsumexp(_tensor(output), dim=1).mean()
    if likelihood == "gaussian":
        return lambda output: 0.5 * _tensor(output).square().sum() / _tensor(output).shape[0]
    raise ValueError(f'expected likelihood="categorical", "gaussian" or a function of the outputs, got {likelihood!r}')


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(
            f"expected outputs that are one tensor, got {type(output).__name__}; pass likelihood=function of the outputs"
        )
    return output


def _likelihood_of(loss_fn: Callable[..., Any]) -> Likelihood:
    if isinstance(loss_fn, nn.CrossEntropyLoss) or loss_fn is nn.functional.cross_entropy:
        return "categorical"
    if isinstance(loss_fn, nn.MSELoss) or loss_fn is nn.functional.mse_loss:
        return "gaussian"
    raise ValueError(
        f"cannot tell the likelihood that the loss {loss_fn!r} stands for; "
        'pass likelihood="categorical", "gaussian" or a function of the outputs'
    )

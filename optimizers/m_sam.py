r"""m-SAM: SAM whose adversary sees m examples at a time, the m-sharpness that SAM's generalisation is said to rest on.

    d = Σ_i (m_i/n) ∇L_i(w + ρ ∇L_i(w)/‖∇L_i(w)‖)   over the micro-batches i of the batch

Micro-batches are walked one after the other, or all at once by vmap where the model allows it: a model without buffers
(BatchNorm would mix the micro-batches), micro-batches of equal size and a mean over examples. vmap needs n/m copies of
the weights.
A micro-batch whose gradient at w is not finite does not climb; the others do. m = n is SAM; ρ = 0 is the base
optimizer, which then sees the batch as a whole.

Foret et al. 2021, section 4.1; Andriushchenko and Flammarion 2022, https://arxiv.org/abs/2206.06232
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from optimizers.core import norms
from optimizers.core.closures import BatchClosure, Closure, batch_closure
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step
from optimizers.ground.rows import arguments


@register(
    "m_sam",
    forward_passes=lambda steps: (4 * steps,),
    copies=(0, 2),
    needs_batch=True,
    example={"m": 8},
    state="2 during the step (n/m by vmap)",
    reference="Foret et al. 2021",
    rho_range=(0.02, 0.5),
)
class MicroSAM(SharpnessAware):
    """One perturbation for every m examples, the gradients averaged; `vectorize=True` takes them all at once."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, m: int = 16, vectorize: bool = False) -> None:
        if m < 1:
            raise ValueError(f"expected at least one example a micro-batch, got m={m}")
        self.vectorize = vectorize
        super().__init__(base, rho=rho, m=m)

    def check_closure(self, closure: Closure) -> None:
        """Refuse what cannot be split, or, at once, not be mapped over."""
        batch = batch_closure(closure, "m-SAM splits the batch")
        if self.vectorize and isinstance(batch.model, DistributedDataParallel):
            raise ValueError("vectorize=True bypasses DistributedDataParallel's averaging; use vectorize=False")
        if self.vectorize and any(map(norms.is_sharded, self.parameters)):
            raise ValueError(
                "vectorize=True needs whole parameters, and these are sharded (FSDP2); use vectorize=False"
            )
        if self.vectorize and any(True for _ in batch.model.buffers()):
            raise ValueError(
                "vectorize=True runs all micro-batches through one model, whose buffers (BatchNorm's statistics) they "
                "would have to share; use vectorize=False"
            )

    def gather(self, step: Step, closure: Closure | None, *, gathered: bool) -> Any:
        """The passes of all micro-batches, at once where that was asked for and they are equal."""
        batch = batch_closure(step.closure, "m-SAM splits the batch")
        self.check_closure(batch)
        size = self.m or len(batch)
        if self.vectorize and self.perturbs and len(batch) % size == 0 and step.scaling is None and batch.count is None:
            return _all_at_once(step, batch, size)
        return super().gather(step, closure, gathered=gathered)


def _all_at_once(step: Step, batch: BatchClosure, size: int) -> Tensor:
    """The mean descent direction of equal micro-batches into `.grad`; returns the mean loss."""
    radius = step.optimizer.radius
    weights = {name: p.detach() for name, p in batch.model.named_parameters() if p in radius and p.requires_grad}
    radii = {name: radius[p] for name, p in batch.model.named_parameters() if name in weights}

    def loss(weights: dict[str, Tensor], inputs: Any, targets: Any) -> Tensor:
        with batch.autocast or nullcontext():
            return batch.loss_fn(functional_call(batch.model, weights, *arguments(inputs)), targets)

    def perturbed_gradient(inputs: Any, targets: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        gradient, value = grad_and_value(loss)(weights, inputs, targets)
        lengths = [torch.linalg.vector_norm(g, dtype=norms.accumulator(g.dtype)) for g in gradient.values()]
        length = torch.linalg.vector_norm(torch.stack(lengths))
        inverse, finite = norms.inverse(length), length.isfinite()
        moved = {
            name: torch.where(finite, (w + radii[name] * inverse * norms.widened(gradient[name])).to(w.dtype), w)
            for name, w in weights.items()
        }
        return grad_and_value(loss)(moved, inputs, targets)[0], value, finite

    groups = pytree.tree_map(lambda tensor: tensor.unflatten(0, (-1, size)), (batch.inputs, batch.targets))
    gradients, values, finite = torch.vmap(perturbed_gradient, randomness="different")(*groups)
    batch.model.zero_grad()
    for name, parameter in batch.model.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].mean(0)
    step.optimizer.count_skipped_ascent((~finite).sum())
    step.count(2)
    return values.mean()

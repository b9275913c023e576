r"""Momentum-SAM: climb along the momentum that the optimizer has already, for the price of one gradient.

    ε = −ρ v/‖v‖,   v the base's first moment;   the base optimizer steps at w with ∇L_B(w + ε)

The minus is the paper's: ε points along the coming descent step, where the loss of the *next* minibatches rises. v = 0
at first, so the first gradient is clean. With SGD v is the momentum buffer; with the Adam family the raw `exp_avg`, no
bias correction and no division by √v (the paper's AdamW-MSAM). ρ is about ten times SAM's and stays constant: tied
to the learning rate, MSAM turns into Nesterov's method. Vision transformers need ρ = 0 during warm-up:
`policy=Between(start=warmup_steps)`.

Weight decay acts at w. The authors' code lets SGD's act at w + ε: `weight_decay_at="perturbed"`.

There is no pass at w, so BatchNorm gathers its statistics at w + ε: estimate them anew before evaluation.

Cost: one gradient. State: the clean weights, one copy, while w + ε is loaded.

Becker, Altrock, Risse 2024, https://arxiv.org/abs/2401.12033
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Direction
from optimizers.core.moments import check_moments, moment
from optimizers.core.registry import register
from optimizers.core.seen import Seen
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step


class Momentum(Direction):
    """d = −v, minus the base's first moment: along the coming step. Known before any gradient is taken."""

    needs_gradient = False
    sign = -1.0
    either_sign = True
    turns = False

    def __init__(self, *, weight_decay_at: Literal["clean", "perturbed"] = "clean") -> None:
        if weight_decay_at not in ("clean", "perturbed"):
            raise ValueError(f'expected weight_decay_at "clean" or "perturbed", got {weight_decay_at!r}')
        self.weight_decay_at = weight_decay_at

    def bind(self, optimizer: Seen) -> None:
        """Refuse a base that keeps no momentum: there would be nothing to climb along."""
        super().bind(optimizer)
        for index, group in enumerate(optimizer.param_groups):
            if group.get("momentum", None) == 0 and "betas" not in group:
                raise ValueError(
                    f"expected a base optimizer with momentum to climb along, got {type(optimizer.base).__name__} "
                    f"with momentum=0 in parameter group {index}; give it, for example, momentum=0.9"
                )
        check_moments(optimizer.base, optimizer.parameters)
        if self.weight_decay_at == "perturbed" and not isinstance(optimizer.base, torch.optim.SGD):
            raise ValueError(
                'weight_decay_at="perturbed" is for the coupled decay of torch.optim.SGD, as in the authors\' code; '
                f"got {type(optimizer.base).__name__}"
            )

    def before_return(self, step: Step) -> None:
        """g + λε, to which the base adds λw: coupled weight decay at w + ε, if that is wished."""
        if self.weight_decay_at == "clean" or step.displacement is None:
            return
        decay = {
            p: -group["weight_decay"] if group["maximize"] else group["weight_decay"]  # the base turns g + λε around
            for group in step.optimizer.param_groups
            for p in group["params"]
        }
        for parameter, clean in zip(step.displacement.parameters, step.displacement.clean, strict=True):
            if parameter.grad is not None:
                (gradient, here) = norms.shards([parameter.grad, parameter])
                gradient.add_(here - clean, alpha=decay[parameter])

    def __call__(self, step: Step) -> Ascent:
        """The first moments of all trainable parameters that have one."""
        parameters = [p for group in step.optimizer.param_groups for p in group["params"] if p.requires_grad]
        moments = [(p, v) for p in parameters if (v := moment(step.optimizer.base, p)) is not None]
        if not moments:
            check_moments(step.optimizer.base, parameters)
        return Ascent([p for p, _ in moments], norms.shards([v for _, v in moments]))


@register(
    "msam",
    reference="Becker et al. 2024",
    closure_free=True,
    negative_rho="against the coming step",
    rho_range=(1.0, 6.0),
)
class MSAM(SharpnessAware):
    """Perturb along minus the momentum: ε = −ρ v/‖v‖, one gradient a step. ρ = 3 (CIFAR), 1.7 to 5.5 (ImageNet)."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 3.0,
        weight_decay_at: Literal["clean", "perturbed"] = "clean",
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, direction=Momentum(weight_decay_at=weight_decay_at), **options)

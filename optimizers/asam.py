r"""Adaptive SAM: a ball that stretches with the weights, so that rescaling a layer does not change the sharpness.

    ε = ρ T² g/‖T g‖,   T = |w| + η_a,   T = 1 on biases

As in the authors' code biases keep T = 1; everything else, weights of normalisation layers included, is adaptive.

Kwon, Kim, Park, Choi 2021, https://arxiv.org/abs/2102.11600
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers import norms
from optimizers.directions import Ascent
from optimizers.metrics import Metric
from optimizers.owners import owners
from optimizers.registry import register
from optimizers.sharpness_aware import SharpnessAware
from optimizers.signatures import at_least


class Adaptive(Metric):
    """ε = ρ T² d/‖T d‖ with T = |w| + eta and T = 1 on biases: the steepest ascent with ‖T⁻¹ε‖ = ρ."""

    def __init__(self, *, eta: float = 0.01) -> None:
        self.eta = eta
        self._bias: dict[Tensor, bool] = {}

    @property
    def group_defaults(self) -> dict[str, Any]:
        """`eta`, for each parameter group."""
        return {"eta": self.eta}

    def __call__(self, optimizer: SharpnessAware, ascent: Ascent) -> Ascent:
        """T² d and ‖T d‖."""
        stretch = self._stretch(optimizer, ascent.parameters)
        if not ascent.parameters:
            return ascent
        stretched = list(torch._foreach_mul(ascent.vectors, stretch))
        scale = norms.norm(stretched, ascent.parameters)
        torch._foreach_mul_(stretched, stretch)
        return Ascent(ascent.parameters, stretched, scale, disposable=True)

    def _stretch(self, optimizer: SharpnessAware, parameters: list[Tensor]) -> list[Tensor]:
        if any(parameter not in self._bias for parameter in parameters):
            held = owners(parameters)
            self._bias = {p: any("bias" in name for _, name in held[p]) for p in parameters}
        eta = {p: group["eta"] for group in optimizer.param_groups for p in group["params"]}
        return [
            torch.ones_like(local) if self._bias[parameter] else local.abs().add_(eta[parameter])
            for parameter, local in zip(parameters, norms.shards(parameters), strict=True)
        ]


@register("asam", cost="2", state="2 during the step", reference="Kwon et al. 2021", rho_range=(0.2, 2.0))
class ASAM(SharpnessAware):
    """Perturb in units of the weights: ε = ρ T² g/‖T g‖, T = |w| + η. ρ = 0.5 (CIFAR-10), 1 (CIFAR-100)."""

    def __init__(
        self, base: Optimizer, *, rho: float = 0.5, eta: Annotated[float, at_least(0)] = 0.01, **options: Any
    ) -> None:
        super().__init__(base, rho=rho, metric=Adaptive(eta=eta), **options)

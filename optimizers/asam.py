r"""Adaptive SAM: a ball that stretches with the weights, so that rescaling a layer does not change the sharpness.

    ε = ρ T² g/‖T g‖,   T = |w| + η_a,   T = 1 on biases

Here biases (tensors with "bias" in the name their module gives them) keep T = 1, and everything else is adaptive: weights
of normalisation layers, and tensors of other names too (`cls_token`, `gamma`). In the authors' code it is the other way
round: only what has "weight" in its name in the model is adaptive, and other names keep T = 1: `adapts="weights"`, which
needs names: `model=model`, or a base made of `model.named_parameters()`. The paper has T = |w| on weights and 1 on biases;
both agree where there are no other names.

Kwon, Kim, Park, Choi 2021, https://arxiv.org/abs/2102.11600
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.axes import Metric
from optimizers.core.owners import names, owners
from optimizers.core.registry import register
from optimizers.core.seen import Seen
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.ground.signatures import at_least

Adapts = Literal["all but biases", "weights"]


class Adaptive(Metric):
    """ε = ρ T² d/‖T d‖ with T = |w| + eta where it `adapts` and T = 1 elsewhere: the steepest ascent with ‖T⁻¹ε‖ = ρ."""

    def __init__(self, *, eta: float = 0.01, adapts: Adapts = "all but biases") -> None:
        if adapts not in get_args(Adapts):
            raise ValueError(f"expected adapts to be one of {', '.join(get_args(Adapts))}, got {adapts!r}")
        self.eta = eta
        self.adapts = adapts
        self._still: dict[Tensor, bool] = {}

    @property
    def group_defaults(self) -> dict[str, Any]:
        """`eta`, for each parameter group."""
        return {"eta": self.eta}

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """T² d and ‖T d‖."""
        stretch = self._stretch(step.optimizer, ascent.parameters)
        if not ascent.parameters:
            return ascent
        vectors = [norms.widened(vector) for vector in ascent.vectors]  # |w|·g of small numbers is 0 in float16
        stretched = list(torch._foreach_mul(vectors, stretch))
        scale = norms.norm(stretched, ascent.parameters)
        torch._foreach_mul_(stretched, stretch)
        return Ascent(ascent.parameters, stretched, scale, disposable=True)

    def _stretch(self, optimizer: Seen, parameters: list[Tensor]) -> list[Tensor]:
        if any(parameter not in self._still for parameter in parameters):
            if self.adapts == "weights":
                called = names(optimizer, parameters)
                self._still |= {p: "weight" not in called[p] for p in parameters}
            else:
                held = owners(optimizer, parameters)
                self._still |= {p: any("bias" in name for _, name in held[p]) for p in parameters}
        eta = {p: group["eta"] for group in optimizer.param_groups for p in group["params"]}
        return [
            torch.ones_like(local, dtype=norms.accumulator(local.dtype))
            if self._still[parameter]
            else norms.widened(local).abs().add_(eta[parameter])
            for parameter, local in zip(parameters, norms.shards(parameters), strict=True)
        ]


@register("asam", state="2 during the step", reference="Kwon et al. 2021", rho_range=(0.2, 2.0), reads_layers=True)
class ASAM(SharpnessAware):
    """Perturb in units of the weights: ε = ρ T² g/‖T g‖, T = |w| + η. ρ = 0.5 (CIFAR-10), 1 (CIFAR-100)."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.5,
        eta: Annotated[float, at_least(0)] = 0.01,
        adapts: Adapts = "all but biases",
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, metric=Adaptive(eta=eta, adapts=adapts), **options)

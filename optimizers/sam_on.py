r"""SAM-ON: perturb the normalisation layers only, or everything but them, or whatever a predicate picks.

    ε on the chosen parameters alone, ‖·‖ over those alone

Layers are told by their type, not by their name: in a residual network the normalisation of a shortcut is called
`downsample.1`. ρ may be ten times SAM's and more, for there are few such parameters.

Mueller, Vlaar, Rolnick, Hein 2023, https://arxiv.org/abs/2306.04226
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from optimizers.asam import Adaptive
from optimizers.core.axes import Euclidean, Metric
from optimizers.core.owners import owners
from optimizers.core.registry import register
from optimizers.core.seen import Seen
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Ascent, Step
from optimizers.msam import Momentum

_NORM = re.compile(r"Norm(\d[dD])?$")
Predicate = Callable[[nn.Module, str], bool]


def is_normalisation(module: nn.Module, name: str = "") -> bool:
    """Whether `module` is a normalisation layer: torch's by type, a foreign one (LlamaRMSNorm) by its class's name."""
    known = isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm)
    return known or _NORM.search(type(module).__name__) is not None


def is_not_normalisation(module: nn.Module, name: str = "") -> bool:
    """Whether `module` is anything else."""
    return not is_normalisation(module, name)


class Only(Metric):
    """Perturb the parameters whose module (and name in it) satisfy `predicate`, in the `inner` metric."""

    def __init__(self, predicate: Predicate, inner: Metric | None = None) -> None:
        self.predicate = predicate
        self.inner = inner or Euclidean()
        self._chosen: dict[Tensor, bool] = {}

    @property
    def group_defaults(self) -> dict[str, Any]:
        """Those of the inner metric."""
        return self.inner.group_defaults

    def __call__(self, step: Step, ascent: Ascent) -> Ascent:
        """The chosen part of the direction, in the inner metric."""
        if any(parameter not in self._chosen for parameter in ascent.parameters):
            self._choose(step.optimizer)
        chosen = [(p, v) for p, v in zip(ascent.parameters, ascent.vectors, strict=True) if self._chosen[p]]
        part = Ascent([p for p, _ in chosen], [v for _, v in chosen], disposable=ascent.disposable)
        return self.inner(step, part)

    def _choose(self, optimizer: Seen) -> None:
        held = owners(optimizer, optimizer.parameters)
        self._chosen = {p: any(self.predicate(module, name) for module, name in held[p]) for p in held}
        if not any(self._chosen.values()):
            raise ValueError(
                f"{getattr(self.predicate, '__name__', 'the predicate')} holds for none of the {len(held)} parameters, "
                "so nothing would be perturbed; does the model have such layers, with weights?"
            )


@register(
    "sam_on",
    state="a little during the step",
    reference="Mueller et al. 2023",
    moves="normalisation layers",
    reads_layers=True,
    rho_range=(0.1, 10.0),
)
class SAMON(SharpnessAware):
    """Perturb the normalisation layers only (`but=True`: everything but them)."""

    def __init__(
        self, base: Optimizer, *, rho: float = 0.5, adaptive: bool = False, but: bool = False, **options: Any
    ) -> None:
        metric = Only(is_not_normalisation if but else is_normalisation, Adaptive() if adaptive else None)
        super().__init__(base, rho=rho, metric=metric, **options)


@register(
    "msam_on",
    state="a little",
    reference="Becker et al. 2024",
    closure_free=True,
    moves="normalisation layers",
    negative_rho="against the coming step",
    reads_layers=True,
    rho_range=(0.1, 10.0),
)
class MSAMON(SharpnessAware):
    """Perturb the normalisation layers only, along minus their momentum; one gradient a step."""

    def __init__(self, base: Optimizer, *, rho: float = 3.0, **options: Any) -> None:
        super().__init__(base, rho=rho, direction=Momentum(), metric=Only(is_normalisation), **options)

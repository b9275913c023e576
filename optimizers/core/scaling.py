"""fp16 training: gradients that a `GradScaler` has scaled up, seen at their true size by everything but the scaler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer


class Scaling:
    """Undoes the scaler's factor after each pass, and gives it back for the scaler's own check before the base step.

    The factor is a power of two, so this is exact. The scaler allows one `unscale_` a step, hence the detour.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler
        self._unused = getattr(scaler, "_scale", self) is None

    def unscale(self, gradients: Iterable[Tensor]) -> None:
        """Divide the gradients of a pass, in place, by the scaler's factor; one that has scaled nothing is refused."""
        if self._unused and getattr(self.scaler, "_scale", self) is None:
            raise RuntimeError(
                "expected a closure that calls scaler.scale(loss).backward(), got step(closure, scaler=scaler) with a "
                "scaler that has never scaled anything; scale the loss in the closure, or use optimizers.BatchClosure"
            )
        for gradient, factor in self._with_factor(gradients):
            gradient.div_(factor)

    def step(self, base: Optimizer, gradients: Iterable[Tensor]) -> Any:
        """Let the base take its step, under the scaler's check."""
        for gradient, factor in self._with_factor(gradients):
            gradient.mul_(factor)
        return self.scaler.step(base)

    def _with_factor(self, gradients: Iterable[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
        for gradient in gradients:
            yield gradient, self.scaler.scale(torch.ones((), device=gradient.device)).to(gradient.dtype)


def scaling_of(scaler: GradScaler) -> Scaling | None:
    """What a scaler asks for; a disabled one nothing."""
    return Scaling(scaler) if scaler.is_enabled() else None

"""What the choices of a method see of the optimizer that they belong to; at the bottom, so that nothing goes in circles."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer


class Seen(Protocol):
    """A sharpness-aware optimizer as its direction, metric, policy and reuse see it."""

    base: Optimizer
    gradient_evaluations: int
    """Gradients taken so far."""

    @property
    def axes(self) -> Mapping[str, object]:
        """The four choices by name."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's parameter groups."""

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, in the order of the groups."""

    @property
    def state(self) -> MutableMapping[Tensor, Any]:
        """What is kept beside each parameter between steps; saved with the optimizer."""

    @property
    def perturbs(self) -> bool:
        """Whether any group has ρ ≠ 0 now."""

    @property
    def radius(self) -> dict[Tensor, float]:
        """ρ of each parameter, with the direction's sign."""

    @property
    def modules(self) -> list[nn.Module] | None:
        """All modules of the model, where it is known."""

    def count_skipped_ascent(self, number: Tensor | int = 1) -> None:
        """Note that an ascent did not take place because something was not finite."""

    def frozen_batch_norms(self) -> AbstractContextManager[None]:
        """Freeze the running statistics of BatchNorm inside the block."""

"""What the base optimizer steps along: the gradient at w+ε, or a mixture of it, the one at w, and what past ones left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimizers.core.axis import Axis
from optimizers.core.gradients import BothGradients, Gradient

if TYPE_CHECKING:
    from optimizers.core.sharpness_aware import SharpnessAware


class Reuse(Axis, ABC):
    """The fourth choice: the descent direction. It changes `.grad` in place. It needs both gradients."""

    def before_ascent(self, optimizer: SharpnessAware) -> None:
        """Give back memory that `after_ascent` will fill anew."""

    @abstractmethod
    def after_ascent(self, optimizer: SharpnessAware, both: BothGradients) -> None:
        """`both` has g and g_s; `.grad` holds g_s; leave the descent direction in `.grad`."""

    def without_ascent(self, optimizer: SharpnessAware, clean: Gradient) -> None:
        """`.grad` holds g, as does `clean`; leave the descent direction in `.grad`."""


def in_place(clean: Gradient) -> list[Tensor]:
    """The tensors of g, such that changing them changes `.grad`: a sparse gradient becomes a dense one."""
    for parameter, tensor in zip(clean.parameters, clean.tensors, strict=True):
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            parameter.grad = tensor
    return clean.tensors

r"""Sharpness-aware minimisation: descend along the gradient of the worst point nearby.

    ε = ρ g/‖g‖,   g = ∇L_B(w);   the base optimizer steps at w with ∇L_B(w + ε)

‖·‖ is one norm over all tensors of all groups. g holds no weight decay: the base applies its own, at w, as the PyTorch
ports do; the authors' JAX code has it in the loss and so in ε: put it into your loss to have that.

Foret, Kleiner, Mobahi, Neyshabur 2021, eq. 2 and 3, https://arxiv.org/abs/2010.01412
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware


@register("sam", reference="Foret et al. 2021", rho_range=(0.02, 0.5))
class SAM(SharpnessAware):
    """Perturb along the gradient: ε = ρ g/‖g‖. ρ = 0.05 (CIFAR-10, ImageNet), 0.1 to 0.3 (CIFAR-100)."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, **options: Any) -> None:
        super().__init__(base, rho=rho, **options)

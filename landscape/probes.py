r"""What the loss surface looks like from where training is: three numbers on the current batch, at chosen steps.

    l2_psf                    ‖∇L_B(w + ρ_s g/‖g‖) − g‖,  g = ∇L_B(w)            (Deng et al. 2024)
    psf_ratio                 l2_psf / ‖g‖
    momentum_cosine_next_batch  cos(v_{t−1}, g), v before this step's update     (Becker et al. 2024, Fig. 2C)
    momentum_ascent           L_B(w − ρ_m v/‖v‖) − L_B(w)                        (Becker et al. 2024, Fig. A.12)

B is the batch to come, which v has not seen since the last epoch at the least: what `gradient_similarity` says of a
checkpoint's momentum and batches drawn from all data, many of them in v, is another cosine, often of the other sign.

All at the clean weights, the model in the mode it trains in, BatchNorm with the statistics of the batch. The probes
change nothing: no running statistic, no gradient buffer, no random number that training would have drawn. They cost
three passes over the batch, two of them gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from landscape.magnitude import magnitude
from landscape.seeding import global_state, set_global_state
from optimizers import SharpnessAware, first_moment, frozen_batch_norm

NAMES = ("l2_psf", "psf_ratio", "momentum_cosine_next_batch", "momentum_ascent")


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return _unit(tensors)[1]


def _unit(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
    """The tensors over their global norm, and that norm; zeros where it is zero, NaN where it is not finite.

    Squares are taken of entries near one, whatever the size of the loss (`landscape.magnitude`).
    """
    largest = torch.stack([tensor.abs().amax() if tensor.numel() else tensor.sum() for tensor in tensors])
    scale = magnitude(largest)
    scaled = torch._foreach_div(list(tensors), scale[0])
    length = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(scaled))))
    shrink = torch.where(length == 0, torch.zeros_like(length), 1 / length)
    return torch._foreach_mul(scaled, shrink), length * scale[0]


def probe(
    model: nn.Module, loss: Callable[[], Tensor], optimizer: SharpnessAware, rho_sam: float, rho_msam: float
) -> dict[str, Tensor]:
    """The numbers of `NAMES` for `loss()`, the training loss of the current batch, as scalars on the device."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    device = parameters[0].device
    clean = [p.detach().clone() for p in parameters]
    generators = global_state(device)

    @torch.no_grad()
    def move(direction: Sequence[Tensor], rho: float) -> None:
        torch._foreach_copy_(parameters, torch._foreach_add(clean, list(direction), alpha=rho))

    def gradient() -> tuple[Tensor, list[Tensor]]:
        set_global_state(generators, device)  # the same dropout mask in every pass: one function L_B
        value = loss()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        return value.detach(), [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    try:
        with frozen_batch_norm(model):
            value, g = gradient()
            unit_g, g_norm = _unit(g)
            move(unit_g, rho_sam)
            _, g_sam = gradient()
            unit_v, v_norm = _unit(first_moment(optimizer))
            move(unit_v, -rho_msam)
            set_global_state(generators, device)
            with torch.no_grad():
                raised = loss()
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, clean)
        set_global_state(generators, device)
    psf = _norm(torch._foreach_sub(g_sam, g))
    cosine = torch.stack([torch.sum(a * b) for a, b in zip(unit_v, unit_g, strict=True)]).sum()
    undefined = torch.full_like(cosine, torch.nan)
    moved = v_norm > 0  # before the first step there is no momentum, hence no cosine and no direction
    return {
        "l2_psf": psf,
        "psf_ratio": psf / g_norm,
        "momentum_cosine_next_batch": torch.where(moved, cosine, undefined),
        "momentum_ascent": torch.where(moved, raised - value, undefined),
    }

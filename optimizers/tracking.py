r"""How fast a running average should follow the gradient: the gain K = 1 − λ, learned from the average's own errors.

The average m_t = m_{t−1} + K e_t sees the error e_t = g_t − m_{t−1}: minibatch noise plus what the full gradient has
moved. If K is right, successive errors are uncorrelated (Mehra 1970, for the Kalman filter). Too small a K leaves a
lag, and they point the same way; too large a one lets the noise in, and they point against each other:

    E⟨e_t, e_{t−1}⟩ = (K* − K) E‖e‖²     so     K ← K + rate · ⟨e_t, e_{t−1}⟩/⟨‖e‖²⟩

K* = 1 − noise²/‖e‖² is the gain of least error, close to 1 while gradients turn quickly and small when they settle.
The last error is kept for every `_STRIDE`-th entry of each tensor only: an inner product needs no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimizers import norms
from optimizers.gradients import Gradient

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware

_KEY = "last_error"
_STRIDE = 8
_RATE = 0.1
_MEMORY = 0.9  # of the mean square error
_SMALLEST, _LARGEST = 0.01, 1.0


def initial(gain: float) -> Tensor:
    """The state (K, running ‖e‖²) before any error is known."""
    return torch.tensor([gain, 0.0], dtype=torch.float64)


def follow(optimizer: SharpnessAware, clean: Gradient, averages: list[Tensor], state: Tensor) -> Tensor:
    """The state after the errors of this step; `averages` are those before it. Leaves the errors' samples behind."""
    errors = [
        gradient.reshape(-1)[::_STRIDE] - average.reshape(-1)[::_STRIDE]
        for gradient, average in zip(clean.tensors, averages, strict=True)
    ]
    known = [optimizer.state[parameter].get(_KEY) for parameter in clean.parameters]
    last = [torch.zeros_like(error) if before is None else before for before, error in zip(known, errors, strict=True)]
    square = norms.dot(errors, errors, clean.parameters)
    finite = square.isfinite()
    errors = norms.finite_or_zero(errors, finite)
    for parameter, error in zip(clean.parameters, errors, strict=True):
        optimizer.state[parameter][_KEY] = error
    gain, power = state.to(square.device).unbind()
    power = torch.where(finite, torch.where(power > 0, _MEMORY * power + (1 - _MEMORY) * square, square), power)
    correlation = norms.dot(errors, last, clean.parameters) * norms.inverse(power)
    return torch.stack([(gain + _RATE * correlation).clamp(_SMALLEST, _LARGEST), power])

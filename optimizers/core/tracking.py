r"""How fast a running average should follow the gradient: the gain K = 1 − λ, learned from the average's own errors.

The average m_t = m_{t−1} + K e_t sees the error e_t = g_t − m_{t−1}: minibatch noise plus what of the full gradient it
did not foresee. F-SAM climbs along that error (for σ = 1, g_t − m_t = λ e_t), and the noise in it is not in our hands;
so the best K is the one with the least E‖e‖², and that can be seen without knowing the full gradient. Its slope is

    ∂e_t/∂K = −ψ_{t−1},   ψ_t = ∂m_t/∂K = (1−K) ψ_{t−1} + e_t     so     K ← K + rate · ⟨e_t, ψ_{t−1}⟩/⟨‖ψ‖²⟩

the recursive prediction-error method with a Gauss-Newton step (Ljung and Söderström 1983, chapter 3). K settles where
errors are uncorrelated with those before: small when gradients settle under noise, close to 1 while they turn slowly
and noise is little; for a random walk under noise it is the Kalman gain (Muth 1960). Where the full gradient turns
faster than a step can foresee, a larger K brings m_t nearer to it, because m_t holds g_t; the perturbation, along
g_t − m_{t−1}, holds no less of it for that.

ψ is kept for every eleventh entry of each tensor only: an inner product needs no more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.core import norms
from optimizers.core.norms import Gradient
from optimizers.core.seen import Seen

_KEY = "slope"
_STRIDE = 11  # divides no common width, so that all columns of a matrix and all places of a kernel take part
_RATE = 0.05
_MEMORY = 0.9  # of ‖ψ‖²
_SMALLEST, _LARGEST = 0.01, 0.99  # at K = 1 nothing would be left of d = g − m


def initial(gain: float) -> Tensor:
    """The state (K, running ‖ψ‖²) before any error is known."""
    return torch.tensor([gain, 0.0])


def follow(optimizer: Seen, clean: Gradient, averages: list[Tensor], state: Tensor) -> Tensor:
    """The state after the errors of this step; `averages` are those before it. Leaves the samples of ψ behind."""
    errors, slopes = [], []
    for parameter, gradient, average in zip(clean.parameters, clean.tensors, averages, strict=True):
        error = gradient.reshape(-1)[::_STRIDE] - average.reshape(-1)[::_STRIDE]
        slope = optimizer.state[parameter].get(_KEY)
        if slope is None:  # an average begins at the first gradient, and makes no error there
            error, slope = torch.zeros_like(error), torch.zeros_like(error)
        errors.append(error)
        slopes.append(norms.widened(slope))  # files of older versions hold it in half precision
    along = norms.dot(errors, slopes, clean.parameters)
    square = norms.dot(slopes, slopes, clean.parameters)
    finite = clean.norm.isfinite()
    gain, power = state.to(square.device).unbind()
    power = torch.where(power > 0, _MEMORY * power + (1 - _MEMORY) * square, square)
    step = torch.where(finite, along, 0.0) * norms.inverse(power)
    gain = (gain + _RATE * step).clamp(_SMALLEST, _LARGEST)
    kept = torch.where(finite, 1 - gain, 1.0)  # a gradient that is not finite moves no average
    errors = norms.finite_or_zero(errors, finite)
    for parameter, error, slope in zip(clean.parameters, errors, slopes, strict=True):
        optimizer.state[parameter][_KEY] = torch.addcmul(error, slope, kept.to(slope.device, slope.dtype))
    return torch.stack([gain, power])

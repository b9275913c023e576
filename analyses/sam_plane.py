r"""A gradient seen in the plane of SAM's and SGD's gradients: its angle to SAM's, and how much of it lies outside.

    e₁ = g_SAM / ‖g_SAM‖,   e₂ ∝ (g_SAM − g) − e₁ ⟨e₁, g_SAM − g⟩,   angle(x) = atan2(x·e₂, x·e₁)

e₂ points away from the plain gradient g, so that g itself has a negative angle and a vector that continues the turn
from g to g_SAM a positive one.

Reference: Becker, Altrock and Risse (2024), Fig. 3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from landscape.magnitude import magnitude


def plane(gradient: Tensor, sam_gradient: Tensor) -> Tensor:
    """The orthonormal basis (2, n) of the plane; NaN where the two gradients are parallel to rounding and span none."""
    scale = magnitude(sam_gradient)  # the plane is that of any multiple of both; their squares may overflow
    gradient, sam_gradient = gradient / scale, sam_gradient / scale
    e1 = sam_gradient / torch.linalg.vector_norm(sam_gradient)
    away = sam_gradient - gradient
    across = away - e1 * (e1 @ away)
    across = across - e1 * (e1 @ across)  # a second pass: the difference may be almost parallel to e1
    length = torch.linalg.vector_norm(across)
    noise = 8 * torch.finfo(gradient.dtype).eps * torch.linalg.vector_norm(gradient)
    e2 = torch.where(length > noise, across / length, torch.nan)
    return torch.stack([e1, e2])


def angle_and_outside(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """The angle of `vector` (n,) to e₁ inside the plane, in radians, and the fraction of its norm outside the plane."""
    vector = vector / magnitude(vector)
    along = basis @ vector  # (2,)
    outside = torch.linalg.vector_norm(vector - along @ basis) / torch.linalg.vector_norm(vector)
    return torch.atan2(along[1], along[0]), outside


def followed(radius: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Angles (..., r) along increasing ρ without atan2's branch cut: each is the turn of 2π that is nearest to the last.

    The angle at the smallest |ρ| keeps its value in (−π, π], so that the plain gradient's is what it was.
    """
    unwrapped = np.unwrap(angles, axis=-1)
    start = int(np.argmin(np.abs(radius)))
    return unwrapped - (unwrapped - angles)[..., start, None]


def zero_crossing(radius: np.ndarray, angle: np.ndarray) -> float:
    """The ρ of least |ρ| at which a followed angle passes through zero, by linear interpolation; NaN: it never does.

    `radius` ascends and may be signed: the angle is followed from ρ = 0 outwards, so that the passage met first is the
    one nearest to it, on whichever side.
    """
    sign = np.sign(angle)
    left = np.flatnonzero(sign[:-1] * sign[1:] < 0)
    share = angle[left] / (angle[left] - angle[left + 1])
    passages = np.concatenate([radius[sign == 0], radius[left] + (radius[left + 1] - radius[left]) * share])
    return float(passages[np.argmin(np.abs(passages))]) if len(passages) else float("nan")


def closest(radius: np.ndarray, angle: np.ndarray) -> float:
    """The ρ of the grid whose angle is nearest to zero; NaN where no angle is known."""
    return float("nan") if np.isnan(angle).all() else float(radius[np.nanargmin(np.abs(angle))])

r"""Directions in parameter space: unit vectors of R^n, and filter-normalised ones whose length is the weights' own.

    unit:               d̂ = d / ‖d‖₂
    filter-normalised:  d_f ← d_f · ‖w_f‖ / ‖d_f‖ for each filter f;  biases and normalisation parameters ← 0

A filter is one slice along a tensor's first axis: an output channel of a convolution, an output neuron of a linear
layer, a row of an embedding. A parameter with fewer than two axes (a bias, a normalisation layer's scale or shift) has
none. A step ρ along a filter-normalised direction moves each filter by ρ times its own norm, so that ρ is *relative*
and does not notice the rescaling of filters that normalisation layers make invisible; it must not be normalised again,
and must not be compared with the radius of a step along a unit direction.

References: Li et al. (2018), section 4, https://arxiv.org/abs/1712.09913.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from landscape.magnitude import magnitude, norm
from landscape.parameters import NORMALISATION, ParameterSpace


def unit(direction: Tensor, name: str = "direction") -> Tensor:
    """`direction` (n,) divided by its L2 norm.

    Raises ValueError for a direction that is zero or not finite, calling it by `name`: neither has a unit vector; and
    FloatingPointError for one so small that its entries have lost digits. The check costs one synchronisation with the
    host.
    """
    scale = magnitude(direction)
    scaled = direction / scale
    length = torch.linalg.vector_norm(scaled)
    found, size = torch.stack([length, scale[0].to(length)]).tolist()
    if not math.isfinite(found) or found == 0:
        raise ValueError(
            f"{name}: expected a finite, non-zero vector to normalise; got one of norm {found}; "
            "leave this direction out, or look at another checkpoint"
        )
    limits = torch.finfo(scaled.dtype)
    if size < limits.tiny / limits.eps:
        raise FloatingPointError(
            f"{name}: expected entries that have all their digits in {scaled.dtype}; got none above {2 * size:.0e}; "
            "multiply the loss, or use dtype=torch.float64"
        )
    return (scaled / length).to(direction.dtype)


def like(theta: Tensor, vector: Tensor, name: str) -> Tensor:
    """`vector` on the device and in the dtype of `theta` (n,); another shape is a ValueError about `name`."""
    if vector.shape != theta.shape:
        raise ValueError(
            f"{name}: expected a vector of shape {tuple(theta.shape)}; got {tuple(vector.shape)}; "
            "was it flattened from another model?"
        )
    return vector.to(theta)


def gaussian(generator: torch.Generator, like: Tensor) -> Tensor:
    """A standard normal vector (n,) of the device and dtype of `like`.

    The numbers are drawn in float64 on the generator's own device and then moved, so that one seed means one direction
    whatever the precision and the device of the model.
    """
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=torch.float64).to(like)


def random_unit(generator: torch.Generator, like: Tensor) -> Tensor:
    """A unit vector (n,), uniform on the sphere, of the device and dtype of `like`."""
    return unit(gaussian(generator, like), "random")


def filter_normalized(direction: Tensor, theta: Tensor, space: ParameterSpace) -> Tensor:
    """`direction` (n,) with every filter scaled to the norm of the same filter of `theta` (n,).

    Biases and normalisation parameters are set to zero, and a filter of `direction` that is zero stays zero.
    The result has the norm of the filters of `theta` together: a step ρ along it is relative to the weights.
    """
    weights = space.unflatten(theta)
    scaled = {}
    for (name, part), owner in zip(space.unflatten(direction).items(), space.owners, strict=True):
        if part.ndim < 2 or issubclass(owner, NORMALISATION):
            scaled[name] = torch.zeros_like(part)
            continue
        filters = part.flatten(1)
        length = norm(filters, 1, keepdim=True)
        target = norm(weights[name].flatten(1), 1, keepdim=True)
        scale = torch.where(length > 0, target / length, torch.zeros_like(length))
        scaled[name] = (filters * scale).view_as(part)
    return space.flatten(scaled)

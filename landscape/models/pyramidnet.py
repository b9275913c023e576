r"""Pyramidal residual networks (Han, Kim, Kim 2017): the width grows a little with every block, by α in all.

    D_k = ⌊16 + α k/N + ½⌋,   x ← pad(x) + norm(conv(ReLU(norm(conv(norm(x))))))

The additive kind with basic blocks: N = (110 − 2)/2 of them in three stages, shortcuts without parameters (mean over 2×2
pixels where the side halves, further channels zero).

https://arxiv.org/abs/1610.02915
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from landscape.models.factory import models
from landscape.models.normalisation import Norm, check_images, he_initialised, norm_layer


class Pyramidal(nn.Module):
    """A basic block whose output has more channels than its input."""

    def __init__(self, inside: int, outside: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.body = nn.Sequential(
            norm_layer(norm, inside),
            nn.Conv2d(inside, outside, 3, stride, 1, bias=bias),
            norm_layer(norm, outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=bias),
            norm_layer(norm, outside),
        )
        self.smaller = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.further = outside - inside

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) → (N, outside, H/stride, W/stride)."""
        return self.body(x) + nn.functional.pad(self.smaller(x), (0, 0, 0, 0, 0, self.further))


@models.register
def pyramidnet110(
    input_shape: Sequence[int], classes: int, alpha: int = 270, blocks: int = 18, norm: Norm = "batch"
) -> nn.Module:
    """PyramidNet-110, 28.5 M parameters at α = 270, 1.8 M at 48; `blocks` in each of three stages, 18 for depth 110."""
    check_images("pyramidnet110", input_shape, 4)
    layers: list[nn.Module] = [nn.Conv2d(input_shape[0], 16, 3, 1, 1, bias=norm == "none"), norm_layer(norm, 16)]
    inside, exact = 16, 16.0
    for index in range(3 * blocks):
        exact += alpha / (3 * blocks)
        outside = round(exact)
        layers.append(Pyramidal(inside, outside, 2 if index in (blocks, 2 * blocks) else 1, norm))
        inside = outside
    layers += [norm_layer(norm, inside), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, classes)]
    return he_initialised(nn.Sequential(*layers))

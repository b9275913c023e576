r"""Hessian–vector products H v = ∇(∇L · v), exact, by the way that suits the model and the memory.

| way                  | one product                              | gradients (CPU) | what is held            |
|----------------------|------------------------------------------|-----------------|-------------------------|
| retained             | backward through the kept gradient graph | 1.1 to 2.4      | the graphs of all data  |
| linearised           | the gradient's tangent map, traced once  | 1.3 to 2.2      | its intermediates       |
| recomputed           | the graph built anew, then as retained   | 2.2 to 3.9      | one batch's graph       |
| forward over reverse | the tangent of a backward pass           | 2.4 to 5        | one batch's activations |

Left to choose, the operator retains the graphs if they fit into its memory, else recomputes them, and turns to forward
over reverse where an operation has no double backward. Tracing takes seconds a batch for the ten per cent it may
save on convolutional networks, so it happens on request only.

References: Pearlmutter (1994); Griewank and Walther (2008), section 5, for the cost.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from landscape.objective.batches import Batch
from landscape.objective.curvature_operator import Blocks, CurvatureOperator, Product, Sized, Way
from landscape.objective.loss_of_theta import LossOfTheta
from landscape.objective.pullback import Pullback

HessianWay = Literal["auto", "retained", "linearised", "recomputed", "forward over reverse"]


def hessian_operator(
    objective: LossOfTheta, theta: Tensor, *, way: HessianWay, memory: int | None
) -> CurvatureOperator:
    """∇²L at `theta` (n,); `memory` bounds the bytes of kept graphs (default: a quarter of the device's)."""

    def graph(batch: Batch) -> Sized:
        leaves = objective.leaves(theta)
        gradient = objective.function.batch_gradient(leaves, batch, create_graph=True)
        return objective.function.replayed(leaves, Pullback(gradient, list(leaves.values())))

    def gradient_of(batch: Batch) -> tuple[Any, tuple[Tensor, ...]]:
        blocks = objective.space.unflatten(theta)

        def gradient(*values: Tensor) -> tuple[Tensor, ...]:
            def loss(parameters: dict[str, Tensor]) -> Tensor:
                return objective.batch_loss(parameters, batch)

            return tuple(torch.func.grad(loss)(dict(zip(blocks, values, strict=True))).values())

        return gradient, tuple(blocks.values())

    def forward_over_reverse(batch: Batch) -> Product:
        gradient, primals = gradient_of(batch)
        return _singly(lambda *tangents: torch.func.jvp(gradient, primals, tangents)[1])

    def linearised(batch: Batch) -> Product:
        gradient, primals = gradient_of(batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch.fx on its own constants
            return _singly(torch.func.linearize(gradient, *primals)[1])

    reverse_free = Way("forward over reverse", forward_over_reverse)
    if way == "auto":
        return CurvatureOperator.sized(objective, graph, [reverse_free], memory)
    ways = {
        each.name: each
        for each in (
            Way("retained", graph, kept=True),
            Way("linearised", linearised, kept=True),
            Way("recomputed", graph),
            reverse_free,
        )
    }
    if way not in ways:
        raise ValueError(f"expected a way among auto, {', '.join(ways)}; got {way!r}")
    return CurvatureOperator(objective, [ways[way]])


def _singly(product: Any) -> Product:
    """A product of one vector's blocks, applied to k of them in turn."""

    def multiply(blocks: Blocks) -> Blocks:
        columns = [product(*(block[i] for block in blocks)) for i in range(blocks[0].shape[0])]
        return [torch.stack(column) for column in zip(*columns, strict=True)]

    return multiply

r"""Jᵀu for many cotangents u through one kept graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.objective.autograd_graph import convolutional, saved_bytes

VECTORISED = 8  # cotangents from which on one vectorised pass beats single ones; convolutions gain nothing from it


class Pullback:
    """u ↦ Jᵀu, J the Jacobian of `outputs` by `inputs`, for blocks of k cotangents at once; the graph is kept."""

    def __init__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        self._chosen = [index for index, output in enumerate(outputs) if output.grad_fn is not None]
        self.outputs = [outputs[index] for index in self._chosen]
        self._inputs = list(inputs)
        self._vectorise = not convolutional(self.outputs)

    def __call__(self, cotangents: Sequence[Tensor]) -> list[Tensor]:
        """Tensors (k, *shape) per output to tensors (k, *shape) per input; zeros where nothing depends on an input."""
        k = cotangents[0].shape[0]
        if not self.outputs:
            return [
                torch.zeros((k, *tensor.shape), dtype=tensor.dtype, device=tensor.device) for tensor in self._inputs
            ]
        chosen = [cotangents[index] for index in self._chosen]
        if self._vectorise and k >= VECTORISED:
            try:
                return self._pass(chosen, together=True)
            except RuntimeError:  # an operation that vmap cannot vectorise
                self._vectorise = False
        columns = [self._pass([block[i] for block in chosen], together=False) for i in range(k)]
        if k == 1:
            return [block[None] for block in columns[0]]
        return [torch.stack(blocks) for blocks in zip(*columns, strict=True)]

    def held_bytes(self) -> int:
        """Bytes of the tensors that the graph keeps alive."""
        return saved_bytes(self.outputs)

    def _pass(self, cotangents: list[Tensor], *, together: bool) -> list[Tensor]:
        found = torch.autograd.grad(
            self.outputs,
            self._inputs,
            cotangents,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=together,
        )
        k = (cotangents[0].shape[0],) if together else ()
        return [
            torch.zeros(k + tensor.shape, dtype=tensor.dtype, device=tensor.device) if block is None else block
            for block, tensor in zip(found, self._inputs, strict=True)
        ]

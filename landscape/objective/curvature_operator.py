r"""A curvature matrix of an objective, multiplied by vectors as a weighted sum over batches.

    C v = Σ_b (W_b/W) C_b v

How C_b v is formed is a `Way`: a function that prepares a batch at θ and returns its product. What was prepared is kept
for the next product if it fits into memory, and made anew for each product if not; where a way needs a derivative that
torch lacks for some operation, or more memory than there is, the next way takes over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from landscape.objective.batches import Batch
from landscape.objective.loss_of_theta import LossOfTheta
from landscape.objective.operators import LinearOperator

Blocks = Sequence[Tensor]  # of k vectors, one tensor (k, *shape) a parameter
Product = Callable[[Blocks], Blocks]
MISSING = ("not implemented", "does not currently support", "does not support", "no forward", "derivative")


@dataclass(frozen=True)
class Way:
    """How products are formed: `prepare(batch)` gives the product of a batch, which is kept between products or not."""

    name: str
    prepare: Callable[[Batch], Product]
    kept: bool = False


class Sized(Protocol):
    """A product that knows what it keeps alive."""

    def __call__(self, blocks: Blocks, /) -> Blocks:
        """k vectors, multiplied."""

    def held_bytes(self) -> int:
        """Bytes of the tensors kept."""


class CurvatureOperator(LinearOperator):
    """The symmetric matrix whose products `ways` form, the first way that works; `way` says which that is."""

    def __init__(self, objective: LossOfTheta, ways: Sequence[Way], first: Product | None = None) -> None:
        super().__init__(objective.size, objective.dtype, objective.device)
        self._objective = objective
        self._ways = list(ways)
        self._first = first  # the first batch as the first way prepares it, where that was done already
        self._kept: list[tuple[Product, float]] | None = None
        self._proven = False

    @classmethod
    def sized(
        cls, objective: LossOfTheta, graph: Callable[[Batch], Sized], others: Sequence[Way], memory: int | None
    ) -> CurvatureOperator:
        """The operator that retains each batch's `graph`, or recomputes it where all would exceed `memory` bytes.

        The default is a quarter of the device's memory; what graphs take is measured on the first batch. `others` are
        the ways to fall back on.
        """
        ways = [Way("retained", graph, kept=True), Way("recomputed", graph), *others]
        budget = memory_budget(objective.device) if memory is None else memory
        batch = next(objective.batches.walk())
        with objective.function.differentiating_twice():
            try:
                first = graph(batch)
            except RuntimeError as failure:
                if not _lacking(failure):
                    raise
                return cls(objective, ways[1:])
        if objective.function.recomputes:  # whoever drops activations to save memory does not want graphs kept
            return cls(objective, ways[1:], first)
        if first.held_bytes() * objective.local_examples > budget * batch.examples:
            return cls(objective, ways[1:], first)
        return cls(objective, ways, first)

    @property
    def way(self) -> str:
        """How products are formed: settled by the first of them."""
        return self._ways[0].name

    def _multiply(self, block: Tensor) -> Tensor:
        rows = self._summed(block.T.contiguous())
        self._objective.record(hessian=self._objective.local_examples * len(rows))
        rows = self._objective.reduce(rows)
        if not self._proven and not bool(torch.isfinite(rows).all()):
            raise FloatingPointError(
                "the first curvature product is not finite: NaN or Inf in the loss at θ, its derivatives, or the vector"
            )
        self._proven = True
        return rows.T

    def _summed(self, rows: Tensor) -> Tensor:
        while True:
            try:
                total = torch.zeros_like(rows)
                blocks = self._objective.space.unflatten_rows(rows)
                # What is kept was built in the context; its products need it no more, and it costs more than a small
                # one.
                with nullcontext() if self._kept is not None else self._objective.function.differentiating_twice():
                    for product, weight in self._products():
                        share = self._objective.space.flatten_rows(product(blocks))
                        total += (weight / self._objective.weight) * share
                return total
            except RuntimeError as failure:
                # A way that has worked once fails for another reason; so does the last one left.
                if self._proven or len(self._ways) == 1 or not _lacking(failure):
                    raise
                self._kept = self._first = None
                self._ways.pop(0)

    def _products(self) -> Iterator[tuple[Product, float]]:
        way = self._ways[0]
        if self._kept is not None:
            yield from self._kept
            return
        kept = []
        for batch in self._objective.batches.walk():
            product, self._first = self._first or way.prepare(batch), None
            if way.kept:
                kept.append((product, batch.weight))
            yield product, batch.weight
        if way.kept:
            self._kept = kept


def _lacking(failure: RuntimeError) -> bool:
    return isinstance(failure, torch.OutOfMemoryError) or any(text in str(failure) for text in MISSING)


def memory_budget(device: torch.device) -> int:
    """Bytes that kept graphs may take unless told otherwise: a quarter of the device's memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4

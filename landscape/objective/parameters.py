r"""The trainable parameters of a model as one vector θ ∈ Rⁿ, and back.

    flatten: {name: tensor} → (n,)        unflatten: (n,) → {name: tensor}

Every tensor that `requires_grad` is a coordinate block, in the order of `model.named_parameters()`; a tensor shared by
two modules appears once, under its first name. Frozen tensors are not coordinates.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor, nn

NORMALISATION: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""Module types whose parameters `space.subspace(NORMALISATION)` selects."""

Selection = Callable[[str], bool] | type[nn.Module] | tuple[type[nn.Module], ...] | str | Iterable[str]


@dataclass(frozen=True)
class ParameterSpace:
    """Names, shapes, dtypes and owning module types of the coordinate blocks; all of them tuples of equal length."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    owners: tuple[type[nn.Module], ...]

    @classmethod
    def of(cls, model: nn.Module) -> ParameterSpace:
        """The space of `model`'s trainable parameters; a model without any is a `ValueError`."""
        lazy = [name for name, parameter in model.named_parameters() if nn.parameter.is_lazy(parameter)]
        if lazy:
            raise ValueError(
                f"expected a model whose parameters have shapes, got lazy ones without: {', '.join(lazy)}; "
                "pass one batch through the model first"
            )
        blocks = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not blocks:
            raise ValueError(
                f"expected a model with trainable parameters, got {type(model).__name__} with none; "
                "set requires_grad on the parameters that are to be coordinates"
            )
        return cls(
            names=tuple(name for name, _ in blocks),
            shapes=tuple(parameter.shape for _, parameter in blocks),
            dtypes=tuple(parameter.dtype for _, parameter in blocks),
            owners=tuple(type(model.get_submodule(name.rpartition(".")[0])) for name, _ in blocks),
        )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each block."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """n, the number of coordinates."""
        return sum(self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of θ: the widest among the blocks."""
        return reduce(torch.promote_types, self.dtypes)

    def real(self) -> ParameterSpace:
        """The space itself, if its blocks are real; complex ones, of which Rⁿ has no coordinates, are a `TypeError`."""
        complexes = [name for name, dtype in zip(self.names, self.dtypes, strict=True) if dtype.is_complex]
        if complexes:
            raise TypeError(
                f"expected real parameters, got complex ones: {', '.join(complexes)}; hold their real and imaginary "
                "parts, torch.view_as_real(p), in the model and let its forward pass use torch.view_as_complex"
            )
        return self

    def flatten(self, tensors: Mapping[str, Tensor] | Iterable[Tensor]) -> Tensor:
        """One vector (n,) from a mapping by name or an iterable in the order of `names`; a copy, differentiable."""
        if isinstance(tensors, Mapping):
            missing = [name for name in self.names if name not in tensors]
            if missing:
                raise ValueError(f"expected tensors for every parameter; missing {', '.join(missing)}")
            tensors = [tensors[name] for name in self.names]
        blocks = list(tensors)
        if [tuple(block.shape) for block in blocks] != [tuple(shape) for shape in self.shapes]:
            raise ValueError(
                f"expected {len(self.shapes)} tensors of shapes {[tuple(s) for s in self.shapes]}, "
                f"got {[tuple(block.shape) for block in blocks]}; do they belong to another model?"
            )
        return torch.cat([block.reshape(-1).to(self._common(blocks)) for block in blocks])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Blocks by name from a vector (n,): views of it, except where the blocks' dtypes differ among themselves."""
        if vector.shape != (self.size,):
            raise ValueError(
                f"expected a vector of shape ({self.size},), got {tuple(vector.shape)}; "
                "was it flattened from another model?"
            )
        blocks = vector.split(self.sizes)
        if len(set(self.dtypes)) > 1:  # a model of mixed precision gets each block in the precision it was built with
            blocks = tuple(block.to(dtype) for block, dtype in zip(blocks, self.dtypes, strict=True))
        return {name: block.view(shape) for name, shape, block in zip(self.names, self.shapes, blocks, strict=True)}

    def unflatten_rows(self, vectors: Tensor) -> list[Tensor]:
        """k vectors (k, n) as one block (k, *shape) a parameter, in the order of `names`."""
        blocks = vectors.split(self.sizes, dim=1)
        return [
            block.reshape(-1, *shape).to(dtype)
            for block, shape, dtype in zip(blocks, self.shapes, self.dtypes, strict=True)
        ]

    def flatten_rows(self, blocks: Iterable[Tensor]) -> Tensor:
        """The inverse of `unflatten_rows`: (k, n) in the space's dtype."""
        return torch.cat([block.reshape(block.shape[0], -1).to(self.dtype) for block in blocks], dim=1)

    def subspace(self, which: Selection) -> ParameterSpace:
        """The blocks that `which` selects.

        `which`: a predicate on names, a module type or tuple of types (e.g. `NORMALISATION`), or names: parameter
        names, module prefixes (`"layer1"` is all of `layer1.*`) and shell patterns (`"*.bias"`). Nothing selected:
        `ValueError`.
        """
        chosen = [index for index, keep in enumerate(self._selected(which)) if keep]
        if not chosen:
            raise ValueError(f"{which!r} selects no parameter; expected some of {', '.join(self.names)}")
        return ParameterSpace(
            names=tuple(self.names[i] for i in chosen),
            shapes=tuple(self.shapes[i] for i in chosen),
            dtypes=tuple(self.dtypes[i] for i in chosen),
            owners=tuple(self.owners[i] for i in chosen),
        )

    def indices(self, subspace: ParameterSpace) -> Tensor:
        """Positions in this space of the coordinates of `subspace`: (subspace.size,) int64 on the CPU."""
        starts = dict(zip(self.names, torch.tensor((0, *self.sizes)).cumsum(0).tolist(), strict=False))
        unknown = [name for name in subspace.names if name not in starts]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not among this space's parameters {', '.join(self.names)}")
        return torch.cat(
            [torch.arange(starts[n], starts[n] + s) for n, s in zip(subspace.names, subspace.sizes, strict=True)]
        )

    def _common(self, blocks: list[Tensor]) -> torch.dtype:
        return reduce(torch.promote_types, (block.dtype for block in blocks))

    def _selected(self, which: Selection) -> list[bool]:
        if isinstance(which, type) or (isinstance(which, tuple) and which and isinstance(which[0], type)):
            return [issubclass(owner, which) for owner in self.owners]
        if callable(which):
            return [bool(which(name)) for name in self.names]
        patterns = [which] if isinstance(which, str) else list(which)
        unmatched = [p for p in patterns if not any(_matches(str(p), name) for name in self.names)]
        if unmatched:
            raise ValueError(
                f"{', '.join(map(str, unmatched))}: no such parameter; expected some of {', '.join(self.names)}"
            )
        return [any(_matches(str(p), name) for p in patterns) for name in self.names]


def _matches(pattern: str, name: str) -> bool:
    return name == pattern or name.startswith(pattern + ".") or fnmatch.fnmatchcase(name, pattern)

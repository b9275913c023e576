r"""A model comes out as it went in: the modes of its modules, its buffers, and where their gradients are sparse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Put training modes and buffers back; within, embeddings have dense gradients, which can be differentiated again.

    A buffer that was replaced, added or removed is put back. One that was written in place cannot be: `RuntimeError`
    (`ModelFunction.at` hands copies of those known to be written).
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    versions = [(buffer, version(buffer)) for held in buffers for buffer in held.values() if buffer is not None]
    sparse = [module for module in modules if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse]
    try:
        for embedding in sparse:
            embedding.sparse = False
        yield
    finally:
        for embedding in sparse:
            embedding.sparse = True
        for module, mode, held in zip(modules, modes, buffers, strict=True):
            module.training = mode
            if module._buffers.keys() != held.keys() or any(module._buffers[key] is not held[key] for key in held):
                module._buffers.clear()
                module._buffers.update(held)
    if any(version(buffer) != before for buffer, before in versions):
        written = {id(buffer) for buffer, before in versions if version(buffer) != before}
        names = [name for name, buffer in model.named_buffers() if id(buffer) in written]
        raise RuntimeError(
            f"a forward pass wrote the buffers {', '.join(names)}, and others did not: their values before it are "
            "lost; reload them, and freeze them for the measurement"
        )


def version(tensor: Tensor) -> int:
    """How often a tensor was written; 0 for those of inference mode, which do not say."""
    return 0 if tensor.is_inference() else tensor._version


def written_by(model: nn.Module, copies: dict[str, Tensor], before: dict[str, int]) -> tuple[str, ...]:
    """The buffers, handed over as `copies`, that the model replaced or wrote since they had the versions `before`."""
    now = dict(model.named_buffers())
    return tuple(name for name, copy in copies.items() if now.get(name) is not copy or version(copy) != before[name])

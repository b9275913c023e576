"""Which module a parameter belongs to: an optimizer is given parameters alone, but some choices go by their layer."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


def living(kind: type[_Module]) -> Iterator[_Module]:
    """Every module of this kind alive in the process.

    Module hooks would find layers as they are called, but a compiled model or function calls none (or recompiles for
    them), so the garbage collector is asked instead: some tens of milliseconds.
    """
    # by exact type and not isinstance: some objects answer to `__class__` with an import or an error
    kinds = _descendants(kind)
    return (thing for thing in gc.get_objects() if type(thing) in kinds)


def _descendants(kind: type) -> set[type]:
    return {kind}.union(*map(_descendants, kind.__subclasses__()))


def owners(parameters: Iterable[Tensor]) -> dict[Tensor, list[tuple[nn.Module, str]]]:
    """For each parameter the modules that hold it, with its name there ("weight", "bias"); a tied one has several."""
    found: dict[Tensor, list[tuple[nn.Module, str]]] = {parameter: [] for parameter in parameters}
    for module in living(nn.Module):
        for name, parameter in module.__dict__.get("_parameters", {}).items():
            if parameter is not None and parameter in found:
                found[parameter].append((module, name))
    return found

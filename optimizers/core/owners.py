"""Which module a parameter belongs to: an optimizer is given parameters alone, but some choices go by their layer.

The model is known if the optimizer was made with `model=` or the closure is a `BatchClosure`. Else the garbage collector
is asked for every module alive, which takes some tens of milliseconds, once; it cannot see what `gc.freeze()` has hidden.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor, nn

from optimizers.core.seen import Seen

_Module = TypeVar("_Module", bound=nn.Module)


def living(kind: type[_Module]) -> Iterator[_Module]:
    """Every module of this kind alive in the process, but for those that `gc.freeze()` hides."""
    # by exact type and not isinstance: some objects answer to `__class__` with an import or an error
    kinds = _descendants(kind)
    return (thing for thing in gc.get_objects() if type(thing) in kinds)


def _descendants(kind: type) -> set[type]:
    return {kind}.union(*map(_descendants, kind.__subclasses__()))


def owners(optimizer: Seen, parameters: Iterable[Tensor]) -> dict[Tensor, list[tuple[nn.Module, str]]]:
    """For each parameter the modules that hold it, with its name there ("weight", "bias"); a tied one has several.

    A parameter of no module has none. Raises `RuntimeError` where that cannot be told from one that is hidden.
    """
    found: dict[Tensor, list[tuple[nn.Module, str]]] = {parameter: [] for parameter in parameters}
    _look(found, optimizer.modules or ())
    lost = {parameter: held for parameter, held in found.items() if not held}
    if lost:
        _look(lost, living(nn.Module))
    unknown = sum(not held for held in lost.values())
    if unknown and gc.get_freeze_count():
        raise RuntimeError(
            f"expected to find the modules of {len(found)} parameters, which {type(optimizer).__name__} chooses by, but "
            f"{unknown} are in none that can be seen, and gc.freeze() hides some; say which model is trained: "
            "model=model for the optimizer, or step(optimizers.BatchClosure(model, loss_fn, inputs, targets))"
        )
    return found


def names(optimizer: Seen, parameters: Iterable[Tensor]) -> dict[Tensor, str]:
    """The name of each parameter in its model: from `model=`, a `BatchClosure`, or a base made of `named_parameters()`.

    Raises `ValueError` if none of these says it.
    """
    known: dict[Tensor, str] = {}
    for module in reversed(optimizer.modules or ()):  # the whole model last, whose names are the long ones
        known |= {parameter: name for name, parameter in module.named_parameters(remove_duplicate=False)}
    for group in optimizer.param_groups:
        known |= dict(zip(group["params"], group.get("param_names", ()), strict=False))
    nameless = sum(parameter not in known for parameter in parameters)
    if nameless:
        raise ValueError(
            f"expected parameters with names to choose by, got {nameless} without; make the optimizer with model=model, "
            "or its base with model.named_parameters()"
        )
    return known


def _look(found: dict[Tensor, list[tuple[nn.Module, str]]], modules: Iterable[nn.Module]) -> None:
    for module in modules:
        for name, parameter in module.__dict__.get("_parameters", {}).items():
            if parameter is not None and parameter in found:
                found[parameter].append((module, name))

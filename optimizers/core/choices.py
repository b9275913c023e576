"""Policies, metrics and schedules of ρ by name: that of the class in small letters, or anybody's as package.module:Class.

    choices("policy")                     between, every_k, bernoulli, …: the classes of this package, wherever they stand
    create_choice("policy", "between", start=400)

A new class needs no line here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_origin

from optimizers.core.axes import Metric, Policy
from optimizers.core.radius import RhoSchedule
from optimizers.core.registry import discover, imported
from optimizers.ground.signatures import check_options, close_matches, options_of

KINDS: dict[str, type] = {"policy": Policy, "metric": Metric, "rho_schedule": RhoSchedule}
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def choices(kind: str) -> dict[str, type]:
    """The classes of a kind (`policy`, `metric` or `rho_schedule`) by name, but those that need a function as an option."""
    discover()
    package = __name__.split(".")[0]
    own = [each for each in _below(KINDS[kind]) if each.__module__.split(".")[0] == package]
    return {
        _CAPITAL.sub("_", each.__name__).lower(): each
        for each in sorted(own, key=lambda each: each.__name__)
        if not inspect.isabstract(each) and not any(map(_needs_function, options_of(each).values()))
    }


def choice(kind: str, name: str) -> type:
    """The class called `name`; an unknown name answers with those that exist.

    `package.module:Class` is anybody's: its module is imported, which runs its code.
    """
    if ":" in name:
        return imported(kind, name, KINDS[kind], KINDS[kind].__name__)
    known = choices(kind)
    if name not in known:
        hint = close_matches([name], known)
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(known)}, or package.module:Class{hint}")
    return known[name]


def create_choice(kind: str, name: str, **options: Any) -> Any:
    """One of the class called `name`, with its options checked against its signature.

    Raises:
        TypeError, ValueError: No such name or option, one too few, or a value that is not one.
    """
    made, subject = choice(kind, name), f"{kind} {name!r}"
    check_options(subject, made, options)
    lacking = [n for n, p in options_of(made).items() if p.default is p.empty and n not in options]
    if lacking:
        raise TypeError(f"{subject}: expected {', '.join(lacking)}, which has no default")
    try:
        return made(**options)
    except ValueError as error:
        raise ValueError(f"{subject}: {error}") from error


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def _needs_function(option: inspect.Parameter) -> bool:
    return option.default is option.empty and get_origin(option.annotation) is get_origin(Callable[..., Any])

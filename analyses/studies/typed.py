"""Values from a TOML file, each of the type it should have or refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

PLAIN = re.compile(r"\w[\w.+-]*")  # a name that is one part of a path and leads nowhere else
_WORDS = {str: "text", int: "a whole number", dict: "a table", list: "a list", bool: "true or false"}
_Kind = TypeVar("_Kind")


def typed(kind: type[_Kind], value: Any, what: str) -> _Kind:
    """`value`, which must be exactly a `kind`: a truth value is no number."""
    if type(value) is not kind:
        raise TypeError(f"{what}: expected {_WORDS[kind]}, got {value!r}")
    return value


def number(value: Any, what: str) -> float:
    """`value` as a finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"{what}: expected a finite number, got {value!r}")
    return float(value)


def plain(name: str, what: str) -> str:
    """`name`, of letters, digits, _ . + - alone: it names files and stands in tables."""
    if not PLAIN.fullmatch(name):
        raise ValueError(f"{what} {name!r}: expected a plain name of letters, digits, _ . + -")
    return name


def seeds_of(value: Any, what: str = "seeds") -> tuple[int, ...]:
    """A list of different whole numbers."""
    if not isinstance(value, list) or not value or len({repr(seed) for seed in value}) < len(value):
        raise ValueError(f"{what}: expected a list of different whole numbers, got {value!r}")
    return tuple(typed(int, seed, what) for seed in value)


def record(kind: type[_Kind], row: Any, **more: Any) -> _Kind:
    """A dataclass from a table; keys that it does not have are refused."""
    known = [f.name for f in fields(kind) if f.name not in more]  # type: ignore[arg-type]
    unknown = set(typed(dict, row, f"each {kind.__name__}")) - set(known)
    if unknown:
        raise ValueError(f"expected the keys {', '.join(known)} in a {kind.__name__}, got {sorted(unknown)}")
    return kind(**more, **row)


def one_of(name: str, known: Mapping[str, Any], what: str) -> str:
    """`name`, which must be among `known`."""
    if name not in known:
        raise ValueError(f"{what}: expected one of {', '.join(sorted(known)) or '(none)'}, got {name!r}")
    return name

"""TOML from files that anybody may have made: parsed within bounds, or refused in one line.

Python's parser takes quadratic time for a key of many dots (17 s for 40 kB) and recurses into brackets.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

LONGEST = 1 << 16  # characters; the packaged experiments have one or two thousand
DEEPEST = 20  # tables within tables, lists within lists
_DOTS = 200  # of one key, before it is parsed: beyond any text with dots in it, and parsed in a millisecond
_DOTTED = re.compile(
    rf"""(?:\.[ \t]*(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*){{{_DOTS},}}"""
)  # a key, or part of one


def loads(text: str) -> dict[str, Any]:
    """What `text` says.

    Raises:
        ValueError: No TOML, longer than 65,536 characters, or nested deeper than 20.
    """
    if len(text) > LONGEST:
        raise ValueError(f"expected TOML of at most {LONGEST} characters, got {len(text)}")
    too_deep = f"expected TOML nested at most {DEEPEST} deep, got more"
    if _DOTTED.search(text):
        raise ValueError(too_deep)
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level: list[Any] = [values]
    for _ in range(DEEPEST + 1):
        level = [item for value in level if isinstance(value, dict | list) for item in _items(value)]
    if level:
        raise ValueError(too_deep)
    return values


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value

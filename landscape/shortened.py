"""Long lists in messages: the first few and the last, and how many there are."""

from __future__ import annotations

from collections.abc import Collection

_SHOWN = 8


def shortened(items: Collection[object]) -> str:
    """`0, 5, 10`, and of many `0, 5, …, 5000 (1001 in all)`; each item by at most 80 characters."""
    texts = [text if len(text) <= 80 else f"{text[:79]}…" for text in map(str, items)]
    if len(texts) <= _SHOWN:
        return ", ".join(texts)
    return f"{', '.join(texts[: _SHOWN - 2])}, …, {texts[-1]} ({len(texts)} in all)"

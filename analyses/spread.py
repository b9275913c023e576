"""Standard deviations of numbers of any size: the squares inside them overflow from 1e154 on, and vanish below 1e-162."""

from __future__ import annotations

import numpy as np


def deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the first axis, (s, ...) → (...), with s − 1 degrees of freedom; NaN for one value."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    _, power = np.frexp(np.abs(values).max(0))  # a power of two rounds nothing
    return np.ldexp(np.ldexp(values, -power).std(0, ddof=1), power)

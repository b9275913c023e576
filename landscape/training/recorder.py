"""Series of numbers by name, each with its own steps, gathered on the device and fetched once a segment.

Recording a device scalar does not wait for the device: the numbers stay there until `flush`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from landscape.runs.metric_series import Series


class Recorder:
    """The metrics since the last checkpoint."""

    def __init__(self) -> None:
        self._steps: dict[str, list[int]] = {}
        self._values: dict[str, list[Tensor | float]] = {}
        self._fetched: dict[str, list[float]] = {}

    def record(self, step: int, **numbers: Tensor | float) -> None:
        """Note `numbers` for `step`; a tensor must be a scalar and is kept where it is."""
        for name, number in numbers.items():
            self._steps.setdefault(name, []).append(step)
            self._values.setdefault(name, []).append(number.detach() if isinstance(number, Tensor) else number)

    def resume(self, segment: Mapping[str, Series]) -> None:
        """Go on with the series of a checkpoint that will be written again."""
        for name, (steps, values) in segment.items():
            self._steps[name], self._values[name] = steps.tolist(), values.tolist()

    def fetch(self, name: str) -> Series:
        """The series `name` so far, one transfer for what is still on the device."""
        fetched = self._fetched.setdefault(name, [])
        pending = self._values.get(name, [])
        on_device = [value for value in pending if isinstance(value, Tensor)]
        wide = functools.reduce(torch.promote_types, {value.dtype for value in on_device}, torch.bfloat16)
        numbers = iter(torch.stack([v.to(wide) for v in on_device]).cpu().double().tolist() if on_device else [])
        fetched += [next(numbers) if isinstance(value, Tensor) else float(value) for value in pending]
        self._values[name] = []
        return np.array(self._steps.get(name, []), dtype=np.int64), np.array(fetched, dtype=np.float64)

    def flush(self) -> dict[str, Series]:
        """All series, and begin the next segment empty."""
        series = {name: self.fetch(name) for name in self._steps}
        self.__init__()  # type: ignore[misc]
        return series

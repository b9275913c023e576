"""What tests shared by all methods expect of one of them, where it is not as usual and no user would ask.

`methods/NAME.py` says it as `EXPECTED = Expected(...)`; a method without such a file is as usual. What a user or a planner
wants to know as well is in `register(...)`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import optimizers

FOLDER = Path(__file__).with_name("methods")
Options = dict[str, Any]


def euclidean(training: Any, epsilon: list[Tensor]) -> float:
    """‖ε‖."""
    return float(torch.cat([e.flatten() for e in epsilon]).norm())


@dataclass(frozen=True)
class Expected:
    """What is particular to a method, as a test sees it."""

    length: Callable[[Any, list[Tensor]], float] = euclidean
    """The length of ε that is promised to be ρ, of a training whose gradients are in `.grad`."""
    length_without_gradient: float = 0.0
    """‖ε‖/ρ where every gradient is zero."""
    descends: Callable[[int, int], bool] = lambda at, passes: at == passes
    """Whether the base steps along the `at`-th backward pass of so many in a step."""
    skips: Callable[[int, int], bool] | None = None
    """Whether an infinite entry in the `at`-th of so many passes keeps from an ascent; None: in all but the descent's."""
    learns_from_failed_steps: bool = False
    """Whether an average has seen the first gradient of a step that fails later."""
    draws_by_gradients: bool = False
    """Whether draws follow the number of gradients taken, those of a step that failed included."""
    draws_on_device: bool = False
    """Whether random numbers come from the device, which torch's meta device refuses."""
    reading: Mapping[str, tuple[Options, Callable[[int], int]]] = field(default_factory=dict)
    """More options to count host reads with, and how many the first steps may do."""
    compiles_step: bool = False
    """Whether its step is taken under torch.compile too, which takes a second: one method of each kind says so."""
    copied_with: Options = field(default_factory=dict)
    """Options under which one weight matrix is perturbed whole."""
    sparse_with: Options = field(default_factory=dict)
    """Options under which the embedding of a small language model is perturbed."""
    other_settings: Mapping[str, tuple[Options, Options]] = field(default_factory=dict)
    """Pairs of options whose states do not fit each other."""
    alone: Options = field(default_factory=dict)
    """Options with which one process does with the whole batch what `together` does on two with halves."""
    together: Options = field(default_factory=dict)
    replicated: Options = field(default_factory=dict)
    """Options to train with on two replicas."""
    refused_on_replicas: tuple[tuple[Options, str], ...] = ()
    """Options that DistributedDataParallel does not go with, and what is said."""
    refused_on_shards: tuple[tuple[Options, str], ...] = ()
    replicas_are_shards: bool = False
    """Whether two replicas do something else than one process, so that shards are compared with replicas too."""


@functools.cache
def expected(method: str) -> Expected:
    """What is particular to the method called so."""
    file = FOLDER / f"{method}.py"
    if not file.exists():
        return Expected()
    spec = importlib.util.spec_from_file_location(f"expected_of_{method}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Expected = module.EXPECTED
    return found


def two_gradients(info: optimizers.OptimizerInfo) -> bool:
    """Two gradients on every step."""
    return list(info.gradients(140)) == [280]


def one_gradient(info: optimizers.OptimizerInfo) -> bool:
    """One gradient on every step, along a momentum, which may be climbed either way."""
    return list(info.gradients(140)) == [140] and info.negative_rho is not None


def simplest(holds: Callable[[optimizers.OptimizerInfo], bool]) -> str:
    """An example of a method that moves all parameters, by what is known of it: the one with the shortest name."""
    infos = [optimizers.describe(name) for name in optimizers.available()]
    fit = [
        info for info in infos if holds(info) and info.moves == "all" and not info.needs_batch and not info.reads_layers
    ]
    return min(fit, key=lambda info: (len(info.name), info.name)).name

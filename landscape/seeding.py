"""Named random generators: every random number of a run comes from a stream `(seed, name)`.

Streams with different names are independent, so drawing more numbers for one purpose (label noise, say) never shifts
another (the order of the data). A stream is a pure function of its name and the seed, so nothing about it has to be
stored to draw it again; the exception is the global generators, which dropout and anybody's own code draw from: their
state is in every checkpoint (`global_state`).

`torch.manual_seed` is not used: it reseeds every accelerator, those of the caller included, and one that is not in use
yet later.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_of(seed: int, name: str, index: int = 0) -> int:
    """A 63-bit seed for the stream `name`, number `index` (an epoch, say), of a run with this `seed`."""
    digest = hashlib.sha256(f"{seed}/{name}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, name: str, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for the stream `name`."""
    return torch.Generator().manual_seed(seed_of(seed, name, index))


def global_state(device: torch.device) -> dict[str, Any]:
    """The state of every global generator: torch's (CPU and `device`), NumPy's and Python's."""
    version, keys, gauss = random.getstate()
    kind, array, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  (it is the global one we keep)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), np.asarray(array), int(position), int(has_gauss), float(cached)],
        "python": [version, list(keys), gauss],
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_global_state(state: dict[str, Any], device: torch.device) -> None:
    """Put every global generator where `global_state` found it."""
    torch.set_rng_state(state["torch"].cpu())
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"].cpu(), device)


def put_cpu_generators(seed: int) -> None:
    """Start every global generator of the CPU from `seed`: torch's, NumPy's and Python's. Cost: microseconds."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def cpu_generators_kept() -> Iterator[None]:
    """Every global generator of the CPU is afterwards where it was before; no accelerator is asked."""
    before = global_state(torch.device("cpu"))
    try:
        yield
    finally:
        set_global_state(before, torch.device("cpu"))


@contextmanager
def isolated(seed: int, name: str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within the block every global generator is the stream `name`; afterwards each is where it was before.

    Every one: torch's, NumPy's, Python's, and those of all accelerators in use in this process, of which `device` becomes
    one if it is none yet; another that the block itself starts draws from its own seed. For code that draws from the
    global generators and cannot be handed one: initialisation, dropout, augmentation. Cost: microseconds, and a few more
    for each accelerator.
    """
    device = torch.device(device)
    before = global_state(device)
    accelerators = {each: torch.get_device_module(each).get_rng_state(each) for each in _accelerators_in_use(device)}
    try:
        value = seed_of(seed, name)
        put_cpu_generators(value)
        for kind in {each.type for each in accelerators}:
            module = torch.get_device_module(kind)
            getattr(module, "manual_seed_all", module.manual_seed)(value)  # MPS has one device, and the second alone
        yield
    finally:
        set_global_state(before, device)
        for each, state in accelerators.items():
            torch.get_device_module(each).set_rng_state(state, each)


def _accelerators_in_use(device: torch.device) -> list[torch.device]:
    """The accelerators whose generators this process has drawn from, or could without starting one; `device` with them."""
    found = []
    for kind in ("cuda", "xpu", "mps", torch._C._get_privateuse1_backend_name()):
        module = getattr(torch, kind, None)
        started = getattr(module, "is_initialized", None) or getattr(module, "is_available", None)
        if module is not None and ((started is not None and started()) or kind == device.type):
            count = module.device_count() if hasattr(module, "device_count") else 1
            found += [torch.device(kind, index) for index in range(count)]
    return found

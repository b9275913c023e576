"""The device that a name means, if there is one: asked before anything is done on it."""

from __future__ import annotations

import torch


def device_named(name: str | torch.device) -> torch.device:
    """The device called `name`, whether or not this machine has it.

    Raises:
        ValueError: No device has such a name; `cpu:7` is none either, since torch takes it for the one CPU.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: expected cpu, cuda, cuda:1 or mps, got {str(name)!r}") from error
    if device.type == "cpu" and device.index not in (None, 0):
        raise ValueError(f"device: expected cpu, which has no number, got {str(name)!r}")
    return device


def usable_device(name: str | torch.device) -> torch.device:
    """The device called `name`, which this machine has.

    Raises:
        ValueError: It has not; says what it has.
    """
    device = device_named(name)
    if device.type == "cpu":
        return device
    try:
        module = torch.get_device_module(device)
        count = module.device_count() if module.is_available() else 0
    except (RuntimeError, AttributeError, AssertionError):
        count = 0
    if (device.index or 0) >= count:
        has = ", ".join(f"{device.type}:{index}" for index in range(count)) or f"no {device.type} device"
        raise ValueError(
            f"device: this machine or this build of torch has {has}, got {str(name)!r}; cpu is always there"
        )
    return device

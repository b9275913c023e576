"""TF32: whether float32 matrix products and convolutions on an NVIDIA GPU keep 23 bits of the mantissa or 10.

torch's defaults differ: products keep all bits, convolutions do not. A training therefore says which it wants of both,
for its own length, and its files say what it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within the block float32 products and convolutions may all use TF32, or none may; then as it was before."""
    before = _settings()
    try:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
        if (tf32_in_use(torch.device("cuda")) != "none") != allowed:  # `torch.backends.fp32_precision` speaks for all
            _restore((["tf32" if allowed else "ieee"] * len(_backends()), None, None))
        yield
    finally:
        _restore(before)


def tf32_in_use(device: torch.device) -> str:
    """For a file's attributes: `none`, `products`, `convolutions` or `products and convolutions` on this device.

    Whether the GPU has such units is not asked; other devices have none.
    """
    if device.type != "cuda":
        return "none"
    new = _new_settings()
    if new is None:
        products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    else:
        products, convolutions = "tf32" in new[0], "tf32" in new[1]
    return (
        " and ".join(name for name, used in (("products", products), ("convolutions", convolutions)) if used) or "none"
    )


def _backends() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn  # torch's annotations do not know of these
    mkldnn: Any = torch.backends.mkldnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul


def _new_settings() -> list[str] | None:
    """`fp32_precision` of each backend; None before torch 2.9, which has no such setting."""
    if not hasattr(torch.backends, "fp32_precision"):
        return None
    return [backend.fp32_precision for backend in _backends()]


def _settings() -> tuple[list[str] | None, str | None, bool | None]:
    """torch keeps the old switches beside the new ones, and refuses to read an old one that a new one contradicts."""
    old: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            old.append(read())
        except RuntimeError:
            old.append(None)
    return _new_settings(), old[0], old[1]


def _restore(before: tuple[list[str] | None, str | None, bool | None]) -> None:
    new, products, convolutions = before
    if products is not None:
        torch.set_float32_matmul_precision(products)
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = convolutions
    if new is not None:  # setting an old one sets some of these
        for backend, value in zip(_backends(), new, strict=True):
            if backend.fp32_precision != value:
                backend.fp32_precision = value

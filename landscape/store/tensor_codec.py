"""Tensors of every dense torch dtype as ordinary numeric arrays, and back, bit for bit.

What HDF5 and NumPy have no name for is stored by its bits and its torch name beside it:
bfloat16 as uint16, float8 and bool as uint8, complex as pairs of floats in a last axis of length 2.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from torch import Tensor

_NATIVE = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
_PAIRS = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}
_BITS = {1: "uint8", 2: "uint16"}
_REINTERPRETED = (
    "bool",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
)

STORED_AS: dict[str, np.dtype] = {name: np.dtype(name).newbyteorder("<") for name in _NATIVE}
"""torch's name of each dtype that can be stored → the dtype of the array it is stored as."""
STORED_AS |= {name: STORED_AS[part] for name, part in _PAIRS.items()}
STORED_AS |= {name: STORED_AS[_BITS[getattr(torch, name).itemsize]] for name in _REINTERPRETED if hasattr(torch, name)}


def name_of(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def stored_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the array that stores a tensor of this dtype and shape."""
    return (*shape, 2) if dtype in _PAIRS else shape


def identity(tensor: Tensor) -> Hashable:
    """Equal for tensors that are the same memory seen in the same way, as tied parameters are, while both live."""
    seen = (tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())
    return (tensor.device, tensor.data_ptr(), *seen)


def encode(tensor: Tensor) -> np.ndarray:
    """The array that stores `tensor`; it may share the tensor's memory.

    Raises:
        ValueError: Sparse, quantised, nested and meta tensors have no plain array.
    """
    name = name_of(tensor.dtype)
    if name not in STORED_AS or tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        raise ValueError(
            f"expected a dense tensor of one of the dtypes {', '.join(STORED_AS)}, "
            f"got {name} with layout {tensor.layout} on {tensor.device}; convert it before storing"
        )
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if name in _PAIRS:
        tensor = torch.view_as_real(tensor)
    elif name not in _NATIVE:
        tensor = tensor.view(getattr(torch, STORED_AS[name].name))
    return tensor.numpy()


def decode(array: np.ndarray, dtype: str) -> Tensor:
    """The tensor of torch's `dtype` that `array` stores, sharing its memory.

    Raises:
        ValueError: The array holds what no tensor of this dtype can (a bool that is neither 0 nor 1).
    """
    if dtype == "bool" and array.size and array.max() > 1:
        raise ValueError("expected only 0 and 1 in a tensor of bools")
    if not hasattr(torch, dtype):
        raise ValueError(f"torch {torch.__version__} has no dtype {dtype}; read this file with a newer one")
    tensor = torch.from_numpy(array)
    if dtype in _PAIRS:  # view_as_complex cannot see through the strides of an empty array
        return (
            torch.view_as_complex(tensor) if array.size else torch.empty(array.shape[:-1], dtype=getattr(torch, dtype))
        )
    return tensor if dtype in _NATIVE else tensor.view(getattr(torch, dtype))

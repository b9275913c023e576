r"""A / s for an operator A of any size, s a power of two as large as the entries of its first product.

A Krylov method, and an estimate of ‖A‖_F, squares what A returns: in float32 an operator of size 1e20 overflows there
and one of 1e-25 vanishes, in float64 from 1e155 and 1e-155 on. Dividing by a power of two rounds nothing, so that the
numbers of an operator of ordinary size stay the same to the bit; what was found is multiplied by `scale` at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landscape.magnitude import magnitude


class ScaledOperator:
    """`operator` divided by `scale`, known after its first product that is not zero. Products are fresh tensors.

    A product that is exactly zero says nothing about the size: who reads products on the host anyway says with `seen`
    whether one was (`watched`); otherwise this looks itself, once, before the second product.
    """

    def __init__(self, operator: Any, *, watched: bool = False) -> None:
        self.operator = operator
        self.shape = operator.shape
        self.dtype = getattr(operator, "dtype", torch.float32)
        self.device = getattr(operator, "device", "cpu")
        self._watched = watched
        self._scale: Tensor | None = None
        self._fixed = False
        self._host: float | None = None  # the scale, once somebody asked for it

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """(A / s) @ vectors, float32 at the least."""
        product = self.operator @ vectors
        if not self._fixed and not self._watched and self._scale is not None:
            self.seen(zero=bool(self._scale == 0))
        if self._scale is None:
            flat = product.reshape(-1)
            self._scale = torch.where((flat == 0).all(), 0, magnitude(flat)[0])  # zero: not known yet
        return product / torch.where(self._scale == 0, 1, self._scale)

    def seen(self, *, zero: bool) -> None:
        """Say whether the product that the scale was taken from was exactly zero, so that the next one is asked."""
        if not zero:
            self._fixed = True
        elif not self._fixed:
            self._scale = self._host = None

    @property
    def scale(self) -> float:
        """s, on the host; 1 where every product so far was zero. FloatingPointError where it is too small to have digits."""
        if self._host is None:
            self._host = (1.0 if self._scale is None else float(self._scale)) or 1.0
            limits = torch.finfo(torch.promote_types(self.dtype, torch.float32))
            if self._host < limits.tiny / limits.eps:
                raise FloatingPointError(
                    f"the operator's products are of the order of {self._host:.0e}, where {self.dtype} loses digits; "
                    "multiply the loss, or use dtype=torch.float64"
                )
        return self._host

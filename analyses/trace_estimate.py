r"""What a stochastic trace estimator returns, and when it may stop: on its own standard error.

    stop when   s/√N ≤ max(atol, rtol · |mean|),   s the standard deviation of the N samples so far

A criterion on the *change* of the running mean, as often used, says nothing about the error: the change after N samples
is of the order s/N, √N times too small. The error of N samples follows Student's t with N − 1 degrees of freedom, so
that no estimator stops before `LEAST_SAMPLES`, where t is close to the normal law and stopping early on a lucky s is
rare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from analyses.scaled_operator import ScaledOperator

LEAST_SAMPLES = 32


@dataclass(frozen=True)
class TraceEstimate:
    """tr A and ‖A‖_F with their standard errors, and how they came about."""

    trace: float
    stderr: float
    frobenius: float  # ‖A‖_F = √(Σ λ²), from the same products
    frobenius_stderr: float
    samples: int  # independent samples, or vectors of the sketch
    products: int  # vectors multiplied by A
    converged: bool  # whether the standard error met the tolerance
    history: tuple[tuple[int, float, float], ...]  # (products, trace, standard error) after each block

    def times(self, scale: float) -> TraceEstimate:
        """The estimate for scale · A, scale positive, where this is that for A."""
        in_units = ("trace", "stderr", "frobenius", "frobenius_stderr")
        history = tuple((products, scale * trace, scale * stderr) for products, trace, stderr in self.history)
        return replace(self, history=history, **{name: scale * getattr(self, name) for name in in_units})


@dataclass(frozen=True)
class Stop:
    """The tolerance on the standard error, and the budget; what is tested is in units of the operator's `scale`."""

    rtol: float
    atol: float
    max_products: int
    operator: ScaledOperator

    def __post_init__(self) -> None:
        """Refuse tolerances that nothing or everything meets."""
        if self.rtol < 0 or self.atol < 0 or self.max_products < 1:
            raise ValueError(
                f"expected rtol ≥ 0, atol ≥ 0 and max_products ≥ 1; got {self.rtol}, {self.atol}, {self.max_products}"
            )

    def met(self, mean: float, stderr: float) -> bool:
        """Whether the standard error is small enough; never while it is unknown."""
        absolute = self.atol / self.operator.scale if self.atol else 0.0
        return stderr <= max(absolute, self.rtol * abs(mean))


def mean_and_stderr(samples: Tensor) -> tuple[float, float]:
    """Mean of `samples` (N,) and its standard error, in float64 on the host; NaN for the error of a single sample."""
    values = samples.cpu().double()
    if len(values) < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def progress(description: str, total: int) -> tqdm[NoReturn]:
    """A bar over Hessian products, shown where they take more than two seconds."""
    return tqdm(total=total, desc=description, unit=" products", delay=2, disable=None)


def root(square: float, stderr: float) -> tuple[float, float]:
    """√x and its standard error from those of x, to first order."""
    value = math.sqrt(max(square, 0.0))
    return value, stderr / (2 * value) if value else 0.0


def check_square(A: object) -> int:
    """n for an operator of shape (n, n); ValueError for anything else."""
    shape = tuple(getattr(A, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"expected a square operator with .shape and @; got shape {shape}")
    return int(shape[0])


def require_finite(products: Tensor) -> None:
    """FloatingPointError where a product with the operator holds NaN or Inf."""
    if not bool(torch.isfinite(products).all()):
        raise FloatingPointError(
            "a product with the operator holds NaN or Inf; is the loss finite at these parameters?"
        )

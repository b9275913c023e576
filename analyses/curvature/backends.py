r"""Other programs' answers to "the k eigenvalues of this Hessian", as second opinions behind the same result.

Each returns the vectors it found and the products it made; what the vectors are worth is then measured by one product
of our own operator a pair (`analyses.krylov.eigenpairs.measured`), since neither program reports residuals.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from analyses.krylov.spectrum_end import SpectrumEnd, Which
from landscape.objective.objective import Objective


class Found(NamedTuple):
    """What another program found, in how many products, and why it stopped."""

    vectors: Tensor  # (n, k)
    products: int
    message: str


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function, and count."""
        self.calls += 1
        return self.function(*arguments, **options)


def eigsh(operator: Any, k: int, *, which: Which, tol: float, max_basis: int | None, seed: int) -> Found:
    """`scipy.sparse.linalg.eigsh` (ARPACK): each vector travels to the host; it stops no earlier than its basis is
    full.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator
    from scipy.sparse.linalg import eigsh as arpack

    ours = operator.to_scipy()
    multiply = Counted(ours.matvec)
    counting = LinearOperator(ours.shape, matvec=multiply, dtype=ours.dtype)
    start = np.random.default_rng(seed).standard_normal(ours.shape[0]).astype(ours.dtype)
    message = "ARPACK's own test was met"
    try:
        values, vectors = arpack(counting, k, which=which, tol=tol, ncv=max_basis, v0=start)
    except ArpackNoConvergence as failure:
        values, vectors, message = failure.eigenvalues, failure.eigenvectors, str(failure)
    order = SpectrumEnd(k, which, tol, 0.0).order(values)
    vectors = torch.as_tensor(vectors[:, order].copy(), dtype=operator.dtype, device=operator.device)
    return Found(vectors, multiply.calls, message)


def pyhessian(objective: Objective, k: int, *, tol: float, seed: int, iterations: int = 100) -> Found:
    """PyHessian 0.1: power iteration with deflation, for the eigenvalues of largest magnitude, at most `iterations` each.

    It stops on the change of its estimate, not on a residual, and so usually misses `tol`: the residuals say by how
    much. It is given a copy of the model, whose mode and gradients it changes; it takes batches of two tensors only,
    and fails on parameters that the loss does not use. Its `density` no longer runs on current torch and is not
    offered.
    """
    peer: Any = importlib.import_module("pyhessian.hessian")  # the package hides this module behind its class

    batches = [(batch.inputs, batch.targets) for batch in objective.batches.walk()]
    if not all(isinstance(part, Tensor) for batch in batches for part in batch):
        raise TypeError(
            'backend="pyhessian" takes batches of two tensors only; use backend="lanczos" for other batches'
        )
    model = copy.deepcopy(objective.model)
    model.zero_grad(set_to_none=True)
    data: dict[str, Any] = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    original = peer.hessian_vector_product
    single = peer.hessian_vector_product = Counted(original)
    try:
        with torch.random.fork_rng(), objective.running():
            torch.manual_seed(seed)
            program = peer.hessian(model, objective.loss_fn, cuda=objective.device.type == "cuda", **data)
            several = program.dataloader_hv_product = Counted(program.dataloader_hv_product)
            _, vectors = program.eigenvalues(maxIter=iterations, tol=tol, top_n=k)
    except AssertionError as failure:
        raise RuntimeError(
            'backend="pyhessian" failed, as it does for models with parameters that the loss does not use; '
            'freeze them or use backend="lanczos"'
        ) from failure
    finally:
        peer.hessian_vector_product = original
    columns = torch.stack([objective.space.flatten(blocks) for blocks in vectors], dim=1)
    return Found(columns, single.calls + several.calls, "PyHessian's own test was met")

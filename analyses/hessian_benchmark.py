r"""Eigenvalue programs side by side on one model: products, seconds, and the residuals that they really reach.

Every program gets the same objective, number of pairs and tolerance. What each returns is measured alike, by one
product of our own operator a pair:

    residual = max_i ‖H v_i − λ_i v_i‖/|λ_i|    overlap = max_{i≠j} |v_iᵀv_j|    error = max_i |λ_i − λ_i*|/|λ_i*|

λ* from Lanczos at a hundredth of the tolerance. The floor is the dimension of the smallest exactly orthogonal Krylov
space, from the same start as ours, whose pairs meet the tolerance: no method that works with one vector can do with
fewer.
"""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from analyses import eigenvalue_backends
from analyses.eigenpairs import measured
from analyses.eigenvalue_backends import Counted, Found
from analyses.lanczos import lanczos
from analyses.spectrum_end import SpectrumEnd
from analyses.unseen_eigenvalues import UNSEEN
from landscape.objective import Objective

Solver = Callable[[Objective, int, float, int], Found]


def hessian_benchmark(
    objective: Objective,
    *,
    k: int = 5,
    tol: float = 1e-3,
    repeats: int = 3,
    seed: int = 0,
    solvers: Mapping[str, Solver] | None = None,
) -> xr.Dataset:
    """The k eigenvalues of largest magnitude by each program installed, as a Dataset over `solver`.

    `products` (a final check included), `seconds` (the median of `repeats`, the programs taking turns; preparation
    included, measuring not), `residual`, `overlap` (one eigenvector returned twice has overlap 1), `error`, and `met`:
    residual within `tol`, overlap below 1e-2; the attribute `floor` is the Krylov optimum. A program that
    fails has NaN, and the attribute of its name says why. `solvers` (default `installed()`) maps names to what is
    compared.
    """
    solvers = installed() if solvers is None else solvers
    hessian = objective.hessian()
    exact = lanczos(hessian, k, which="LM", tol=tol / 100, generator=_generator(seed)).values.numpy()
    floor = krylov_floor(hessian, k, tol=tol, seed=seed)
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    found: dict[str, Found] = {}
    failures: dict[str, str] = {}
    for _ in range(repeats):
        for name, solve in solvers.items():
            if name in failures:
                continue
            begun = time.perf_counter()
            try:
                found[name] = solve(objective, k, tol, seed)
                if objective.device.type == "cuda":
                    torch.cuda.synchronize(objective.device)
                seconds[name].append(time.perf_counter() - begun)
            except Exception as failure:
                failures[name] = f"{type(failure).__name__}: {str(failure)[:200]}"
    rows: dict[str, tuple[float, ...]] = dict.fromkeys(solvers, (np.nan, np.nan, np.nan, np.nan))
    for name, (vectors, products, message) in found.items():
        pairs = measured(hessian, vectors, "LM", tol, products, message)
        values = pairs.values.numpy()
        residual = float((pairs.residuals.numpy() / np.abs(values)).max())
        overlap = float((pairs.vectors.T @ pairs.vectors).fill_diagonal_(0).abs().max())
        rows[name] = (products, residual, overlap, float(np.abs(values / exact[: len(values)] - 1).max()))
    products, residual, overlap, error = np.array(list(rows.values())).T
    return xr.Dataset(
        {
            "products": ("solver", products, {"units": "1", "long_name": "Hessian products"}),
            "seconds": ("solver", [float(np.median(s)) if s else np.nan for s in seconds.values()], {"units": "s"}),
            "residual": ("solver", residual, {"units": "1", "long_name": "largest true relative residual"}),
            "overlap": ("solver", overlap, {"units": "1", "long_name": "largest overlap of two eigenvectors"}),
            "error": ("solver", error, {"units": "1", "long_name": "largest relative eigenvalue error"}),
            "met": ("solver", ((residual <= tol) & (overlap < 1e-2)).astype(np.int8), {"units": "1"}),
        },
        coords={"solver": list(rows)},
        attrs={"floor": floor, "k": k, "tol": tol, "repeats": repeats, "way": hessian.way, **failures},
    )


def table(dataset: xr.Dataset) -> str:
    """The benchmark as Markdown, with the floor above it."""
    lines = [
        f"top-{dataset.attrs['k']}, tol {dataset.attrs['tol']:g}; Krylov optimum {dataset.attrs['floor']} products",
        "",
        "| program | products | seconds | true relative residual | overlap | eigenvalue error | target met |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dataset.solver.values:
        row = dataset.sel(solver=name)
        if np.isnan(row.products):
            lines.append(f"| {name} | failed: {dataset.attrs.get(str(name), '')} | | | | |")
            continue
        lines.append(
            f"| {name} | {int(row.products)} | {float(row.seconds):.3g} | {float(row.residual):.1e} "
            f"| {float(row.overlap):.0e} | {float(row.error):.1e} | {'yes' if row.met else 'no'} |"
        )
    return "\n".join(lines)


def krylov_floor(operator: Any, k: int, *, tol: float, seed: int) -> int:
    """Smallest dimension of an exactly orthogonal Krylov space whose k pairs of largest magnitude meet `tol`.

    The start is that of `lanczos` with this seed. Orthogonality is to rounding, by Gram–Schmidt in float64; residuals
    are computed in full from the stored images. Cost: one product a dimension, and two vectors of float64 each.
    """
    n = operator.shape[0]
    start = torch.randn(n, generator=_generator(seed), dtype=operator.dtype).double()
    basis = (start / start.norm())[:, None]
    images = torch.empty(n, 0, dtype=torch.float64)
    end = SpectrumEnd(k, "LM", tol, 0.0)
    while True:
        image = (operator @ basis[:, -1].to(operator.dtype).to(operator.device)).cpu().double()
        images = torch.cat([images, image[:, None]], dim=1)
        size = images.shape[1]
        projected = basis.T @ images
        values, vectors = np.linalg.eigh(((projected + projected.T) / 2).numpy())
        chosen = end.order(values)[:k]
        coefficients = torch.from_numpy(vectors[:, chosen])
        residuals = images @ coefficients - (basis @ coefficients) * torch.from_numpy(values[chosen])
        met = residuals.norm(dim=0).numpy() <= tol * np.abs(values[chosen])
        if size == n or (size >= k and met.all()):
            return size
        for _ in range(3):
            image -= basis @ (basis.T @ image)
        basis = torch.cat([basis, (image / image.norm())[:, None]], dim=1)


def installed() -> dict[str, Solver]:
    """The programs that can be compared here, by name."""
    return {
        name: solve
        for name, (package, solve) in PROGRAMS.items()
        if package is None or importlib.util.find_spec(package) is not None
    }


def _ours(objective: Objective, k: int, tol: float, seed: int) -> Found:
    pairs = lanczos(objective.hessian(), k, which="LM", tol=tol, generator=_generator(seed))
    return Found(pairs.vectors, pairs.matvecs, pairs.message)


def _ours_careful(objective: Objective, k: int, tol: float, seed: int) -> Found:
    pairs = lanczos(objective.hessian(), k, which="LM", tol=tol, unseen_distinct=UNSEEN, generator=_generator(seed))
    return Found(pairs.vectors, pairs.matvecs, pairs.message)


def _ours_restarted(objective: Objective, k: int, tol: float, seed: int) -> Found:
    hessian = objective.hessian()
    pairs = lanczos(hessian, k, which="LM", tol=tol, max_basis=2 * k + 8, generator=_generator(seed))
    return Found(pairs.vectors, pairs.matvecs, pairs.message)


def _scipy(objective: Objective, k: int, tol: float, seed: int) -> Found:
    return eigenvalue_backends.eigsh(objective.hessian(), k, which="LM", tol=tol, max_basis=None, seed=seed)


def _pyhessian(objective: Objective, k: int, tol: float, seed: int) -> Found:
    return eigenvalue_backends.pyhessian(objective, k, tol=tol, seed=seed)


def _pyhessian_to_target(objective: Objective, k: int, tol: float, seed: int) -> Found:
    """Its test is the change of the estimate, about the residual's square: at a thousandth of `tol` residuals reach `tol`."""
    return eigenvalue_backends.pyhessian(objective, k, tol=tol / 1000, seed=seed, iterations=1000)


def _curvlinops(objective: Objective, k: int, tol: float, seed: int) -> Found:
    """The recipe of its documentation: HessianLinearOperator, then scipy's eigsh."""
    import curvlinops
    from scipy.sparse.linalg import eigsh

    model, batches = _own(objective)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    operator = curvlinops.HessianLinearOperator(model, objective.loss_fn, parameters, batches).to_scipy()
    multiply = Counted(operator._matvec)
    operator._matvec = operator._matmat = multiply
    start = np.random.default_rng(seed).standard_normal(objective.size)
    _, vectors = eigsh(operator, k, which="LM", tol=tol, v0=start)
    return Found(torch.as_tensor(vectors[:, ::-1].copy()).to(objective.theta), multiply.calls, "ARPACK")


def _eigenthings(iterations: int | None) -> Solver:
    """hessian-eigenthings' Lanczos of a fixed length; it has no stop at a tolerance."""

    def solve(objective: Objective, k: int, tol: float, seed: int) -> Found:
        import hessian_eigenthings as peer

        model, batches = _own(objective)
        operator = peer.HessianOperator(model, batches, peer.supervised_loss(objective.loss_fn))
        operator.matvec = multiply = Counted(operator.matvec)
        pairs = peer.lanczos(operator, k=k, max_iter=iterations, tol=tol, which="LM", seed=seed)
        return Found(pairs.eigenvectors.T.contiguous(), multiply.calls, "fixed length")

    return solve


def _own(objective: Objective) -> tuple[torch.nn.Module, list[tuple[Tensor, Tensor]]]:
    """A copy of the model, in eval mode, and the batches on its device, for a program that may change both."""
    batches = [(batch.inputs, batch.targets) for batch in objective.batches.walk()]
    return copy.deepcopy(objective.model).eval(), batches


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PROGRAMS: dict[str, tuple[str | None, Solver]] = {
    "lanczos": (None, _ours),
    f"lanczos, unseen below {UNSEEN:g}": (None, _ours_careful),
    "lanczos, max_basis = 2k + 8": (None, _ours_restarted),
    "our products, scipy eigsh": ("scipy", _scipy),
    "pyhessian": ("pyhessian", _pyhessian),
    "pyhessian, tol / 1000": ("pyhessian", _pyhessian_to_target),
    "curvlinops, scipy eigsh": ("curvlinops", _curvlinops),
    "hessian-eigenthings lanczos": ("hessian_eigenthings", _eigenthings(None)),
    "hessian-eigenthings lanczos, 30": ("hessian_eigenthings", _eigenthings(30)),
    "hessian-eigenthings lanczos, 60": ("hessian_eigenthings", _eigenthings(60)),
}

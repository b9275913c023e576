r"""Hessian eigenvalues along a training run, each checkpoint's search begun from the last one's eigenvectors.

Between neighbouring checkpoints the leading eigenspace turns little: a Krylov space begun from the old vectors holds
good approximations after k products, where one begun from a random vector needs three times as many.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from tqdm import tqdm

from analyses.attributes import describe
from analyses.curvature.spectrum import dataset_of
from analyses.krylov.eigenpairs import Eigenpairs
from analyses.krylov.lanczos import lanczos
from analyses.krylov.spectrum_end import Which
from analyses.krylov.unseen import UNSEEN
from landscape.objective.objective import Objective

if TYPE_CHECKING:
    from landscape.runs.run import Checkpoint


def track_eigenvalues(
    subjects: Iterable[Objective | Checkpoint],
    *,
    k: int = 5,
    which: Which = "LA",
    tol: float = 1e-3,
    refresh: int = 10,
    seed: int = 0,
) -> xr.Dataset:
    """The k eigenvalues at each of `subjects`, as `top_eigenvalues` has them, over `step`.

    What `top_eigenvalues` says in attributes of one search stands here over `step`: `matvecs`, `verification_matvecs`,
    `restarts`, `unseen_distinct` (NaN where the search began from old vectors), `search_converged` and `message`; the
    attributes hold what is the same for all subjects, and `matvecs` and `converged` of all together.

    A search from old vectors certifies what it finds, but can miss an eigenvalue that rose from far below among the k
    while its vector stayed orthogonal to the old ones; so every `refresh`-th search begins afresh (1: all do). Objectives
    are numbered from zero, checkpoints have their own step.
    """
    if refresh < 1:
        raise ValueError(f"expected refresh ≥ 1 (1 begins every search afresh), got {refresh}")
    found: Eigenpairs | None = None
    rows: list[xr.Dataset] = []
    described: list[dict[str, Any]] = []
    for index, subject in enumerate(tqdm(subjects, desc="eigenvalues", unit="checkpoint", delay=2, disable=None)):
        objective = subject if isinstance(subject, Objective) else subject.objective()
        step = index if isinstance(subject, Objective) else subject.step
        start = None if found is None or index % refresh == 0 else found.vectors
        # A vector of its own for each: an eigenvector that turns past one start is not overlooked for several steps.
        generator = torch.Generator().manual_seed(seed + index)
        found = lanczos(
            objective.hessian(), k, which=which, tol=tol, start=start, unseen_distinct=UNSEEN, generator=generator
        )
        row = dataset_of(found)
        searched = {("search_converged" if name == "converged" else name): row.attrs[name] for name in row.attrs}
        described.append(describe(objective))
        rows.append(row.assign({name: ((), value) for name, value in searched.items()}).assign_coords(step=step))
    if not rows:
        raise ValueError("expected at least one objective or checkpoint, got none")
    dataset = xr.concat(rows, "step", combine_attrs="override")
    options = {"k": k, "which": which, "tol": tol, "refresh": refresh, "seed": seed}
    dataset.attrs = {
        "analysis": "track_eigenvalues",
        "options": json.dumps(options, sort_keys=True),
        **{name: value for name, value in described[0].items() if all(other[name] == value for other in described)},
        "matvecs": int(dataset.matvecs.sum()),
        "converged": int(dataset.search_converged.all()),
    }
    return dataset

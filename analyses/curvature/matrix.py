"""Which symmetric matrix an analysis of the curvature asks about, by name."""

from __future__ import annotations

from typing import Literal, get_args

from landscape.objective.objective import Objective
from landscape.objective.operators import LinearOperator

Matrix = Literal["hessian", "ggn", "fisher"]
TITLES = {"hessian": "Hessian", "ggn": "Gauss–Newton matrix", "fisher": "Fisher matrix"}


def curvature_matrix(objective: Objective, name: Matrix) -> LinearOperator:
    """The Hessian, the generalized Gauss–Newton or the true Fisher matrix of `objective`, (n, n), at its parameters.

    The last two are positive semi-definite (Gauss–Newton for a loss convex in the outputs). An unknown name is a
    ValueError.
    """
    if name not in get_args(Matrix):
        raise ValueError(f"matrix: expected one of {', '.join(get_args(Matrix))}, got {name!r}")
    operator: LinearOperator = getattr(objective, name)()
    return operator

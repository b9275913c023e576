"""Directions asked for by name: which of them exist at this point, and the vector each stands for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from analyses.krylov.lanczos import lanczos
from landscape.objective.directions import filter_normalized, gaussian, random_unit, unit
from landscape.objective.objective import Objective


def choose(
    directions: Sequence[str] | None, momentum: Tensor | None, *, known: Sequence[str], default: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The directions to use, and an attribute that says what was left out.

    `directions` None means `default`, without the momentum where there is none or it is zero. Asked for by name, an
    unknown direction or a momentum that does not exist is a ValueError.
    """
    state = "there is none" if momentum is None else "" if bool(momentum.any()) else "it is zero"
    if directions is None:
        left_out = {"left_out": f"momentum: {state}"} if state and "momentum" in default else {}
        return tuple(name for name in default if not (state and name == "momentum")), left_out
    if not directions:
        raise ValueError(f"directions: expected at least one of {', '.join(known)}; got none")
    for name in directions:
        if name not in known:
            raise ValueError(f"directions: expected names among {', '.join(known)}; got {name!r}")
    if state and "momentum" in directions:
        raise ValueError(
            f"directions: 'momentum' was asked for, but {state}; pass momentum=, or a checkpoint taken after the first "
            "step of an optimizer with momentum, or leave this direction out"
        )
    return tuple(directions), {}


def vector(
    name: str, objective: Objective, momentum: Tensor | None, generator: torch.Generator, *, index: int = 0
) -> Tensor:
    """The direction (n,) called `name`: a unit vector, but for `filter_normalized`, whose length is the weights' own.

    `eigenvector` is the one of the `index`-th largest Hessian eigenvalue. Cost: one gradient for `gradient`, some 10
    Hessian products for `eigenvector`, else nothing.
    """
    theta = objective.theta
    if name == "gradient":
        return unit(objective.gradient(), name)
    if name == "momentum":
        assert momentum is not None
        return unit(momentum, name)
    if name == "random":
        return random_unit(generator, theta)
    if name == "filter_normalized":
        return filter_normalized(gaussian(generator, theta), theta, objective.space)
    if name == "eigenvector":
        return lanczos(objective.hessian(), index + 1, generator=generator).vectors[:, index].to(theta)
    raise ValueError(f"no direction is called {name!r}")

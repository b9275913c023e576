"""The momentum that an analysis asks about, in the coordinates of θ, from whatever the caller has.

An optimizer keeps its moments in the order of its parameter groups, a model its parameters in the order of its modules;
where two parameters have one shape, a vector flattened in the wrong order fits and is silently another direction. So
an optimizer is mapped parameter by parameter, by identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from landscape.directions import like
from landscape.objective import Objective
from optimizers.moments import moment


def momentum_of(objective: Objective, given: Any) -> Tensor | None:
    """The momentum (n,) of `objective`'s parameters; None for an optimizer that has none yet.

    `given`: an optimizer over the model's parameters (torch's own or one of ours, whose base answers); a mapping from
    parameter names to tensors; or a vector (n,) in the order of `objective.space.names`, which nothing can check.
    A parameter that the optimizer does not step counts zero.

    Raises ValueError for an optimizer of other parameters and a vector of another size, TypeError for anything else, a
    list of tensors too: its order says nothing about the model's.
    """
    if isinstance(given, Optimizer):
        return _of_optimizer(objective, given)
    if isinstance(given, Mapping):
        return objective.space.flatten(given).to(objective.theta)
    if isinstance(given, Tensor):
        return like(objective.theta, given, "momentum")
    raise TypeError(
        f"momentum: expected the optimizer, a mapping from parameter names to tensors, or a vector of shape "
        f"({objective.size},) in the order of objective.space.names; got {type(given).__name__}"
    )


def _of_optimizer(objective: Objective, optimizer: Optimizer) -> Tensor | None:
    base = getattr(optimizer, "base", optimizer)
    stepped = {parameter for group in base.param_groups for parameter in group["params"]}
    parameters = dict(objective.original.named_parameters())
    if not any(parameters[name] in stepped for name in objective.space.names):
        raise ValueError(
            "momentum: expected an optimizer over the parameters of the objective's model, got one that holds none of "
            "them; was the model copied or loaded anew? Pass a mapping from parameter names to tensors instead"
        )
    moments = {name: moment(base, parameters[name]) for name in objective.space.names}
    if all(found is None for found in moments.values()):
        return None
    blocks = {
        name: torch.zeros_like(parameters[name]) if found is None else found.detach() for name, found in moments.items()
    }
    return objective.space.flatten(blocks).to(objective.theta)

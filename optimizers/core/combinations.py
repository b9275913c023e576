"""Which of the four choices go together, and with which base."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from torch.optim import Optimizer

from optimizers.core.norms import is_sharded
from optimizers.core.passes import Whole
from optimizers.core.seen import Seen


class Combined(Whole, Protocol):
    """A sharpness-aware optimizer whose choices are to be checked."""

    m: int | None


def check_base(base: object) -> None:
    """Raise `TypeError` if the base is no optimizer instance, a class or the parameters themselves for example."""
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"expected an optimizer instance such as torch.optim.SGD(model.parameters(), lr=0.1), got {base!r}"
        )
    if hasattr(base, "perturbation"):
        raise TypeError(
            f"expected a base optimizer that knows nothing of perturbations, got {type(base).__name__}: the inner one "
            "would ask for a closure of its own; wrap its base, and combine direction, metric, policy and reuse instead"
        )
    demanded = [
        name
        for name, parameter in list(inspect.signature(type(base).step).parameters.items())[1:]
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if demanded:
        raise TypeError(
            f"expected a base that steps along the gradients it finds in .grad, got {type(base).__name__}, whose step "
            f"needs {', '.join(demanded)}: it evaluates the loss itself, at points of its own choice (a line search, "
            "for example), so there is no one point to perturb; take SGD or one of the Adam family"
        )


def check_parameters(optimizer: Seen) -> None:
    """Raise `TypeError` for parameters of torch's first FSDP: shards that do not say of what, so norms would be local."""
    # torch marks both: the flat parameter, and those that are parts of one (use_orig_params=True), empty ones too
    if any(getattr(p, "_is_flat_param", False) or getattr(p, "_fsdp_flattened", False) for p in optimizer.parameters):
        raise TypeError(
            "expected whole parameters or those of FSDP2, got flat ones of FullyShardedDataParallel (FSDP1): each rank "
            "would take the norm of its own part only, and ε would be too long; use torch.distributed.fsdp.fully_shard"
        )


def _check_whole(optimizer: Combined) -> None:
    if any(map(is_sharded, optimizer.parameters)):
        raise ValueError(
            f"{type(optimizer).__name__} differentiates twice, and a sharded model (FSDP2) keeps no graph for that: "
            "expected whole parameters, got sharded ones; use DistributedDataParallel, or sam, which differentiates once"
        )


def check_names(base: Optimizer, defaults: dict[str, Any]) -> None:
    """Raise `ValueError` if the base keeps a hyperparameter in its groups that goes by the name of one of ours."""
    taken = sorted(set(defaults) & set(base.defaults))
    if taken:
        raise ValueError(
            f"{type(base).__name__} has hyperparameters called {', '.join(taken)} in its param_groups, where ours "
            "would replace them; wrap another base optimizer"
        )


def check_combination(optimizer: Combined) -> None:
    """Raise `ValueError`, with the reason, for choices that make no sense together (`TypeError` for parameters)."""
    check_parameters(optimizer)
    if any(axis.differentiates_twice for axis in optimizer.axes.values()):
        _check_whole(optimizer)
    direction, policy, reuse = optimizer.direction, optimizer.policy, optimizer.reuse
    names = {axis: type(choice).__name__ for axis, choice in optimizer.axes.items()}
    for name, axis in optimizer.axes.items():
        if axis.learns_from_gradient and not direction.needs_gradient:
            raise ValueError(
                f"{name}={names[name]} learns from gradients at w: expected a direction that needs them, like Steepest, "
                f"got direction={names['direction']}"
            )
    if not direction.needs_gradient and reuse is not None:
        raise ValueError(
            f"reuse={names['reuse']} compares the gradients at w and w + ε, but direction={names['direction']} never "
            "takes the one at w; choose a direction that does, or no reuse"
        )
    if not direction.needs_gradient and policy.reads_gradient:
        raise ValueError(
            f"policy={names['policy']} decides from the gradient at w, but direction={names['direction']} never takes "
            "it; choose a direction that does, or a policy that goes by the clock"
        )
    if not direction.needs_gradient and policy.reads_both:
        raise ValueError(
            f"policy={names['policy']} learns from both gradients, but direction={names['direction']} takes only one; "
            "choose a direction that needs the gradient at w, or a policy that goes by the clock"
        )
    if optimizer.m is not None and (names["policy"] != "Always" or reuse is not None):
        raise ValueError("every m examples climb on every step, for themselves; leave out policy and reuse")
    if optimizer.m is not None and not direction.needs_gradient:
        raise ValueError(
            f"m gives every m examples their own ascent, but direction={names['direction']} is the same for all"
        )
    if optimizer.no_sync is not None:
        if not direction.needs_gradient:
            raise ValueError(
                f"no_sync is about the gradient at w, but direction={names['direction']} never takes it; leave it out"
            )
        if policy.reads_gradient or policy.reads_both or reuse is not None:
            culprit = f"policy={names['policy']}" if reuse is None else f"reuse={names['reuse']}"
            raise ValueError(
                f"with no_sync each replica knows only its own gradient at w, so {culprit} would do something else on "
                "each and the replicas would part; leave no_sync out"
            )

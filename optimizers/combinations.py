"""Which of the four choices go together, and with which base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


def check_base(base: object) -> None:
    """Raise `TypeError` if the base is no optimizer instance, a class or the parameters themselves for example."""
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"expected an optimizer instance such as torch.optim.SGD(model.parameters(), lr=0.1), got {base!r}"
        )


def check_names(base: Optimizer, defaults: dict[str, Any]) -> None:
    """Raise `ValueError` if the base keeps a hyperparameter in its groups that goes by the name of one of ours."""
    taken = sorted(set(defaults) & set(base.defaults))
    if taken:
        raise ValueError(
            f"{type(base).__name__} has hyperparameters called {', '.join(taken)} in its param_groups, where ours "
            "would replace them; wrap another base optimizer"
        )


def check_combination(optimizer: SharpnessAware) -> None:
    """Raise `ValueError`, with the reason, for choices that make no sense together."""
    direction, policy, reuse = optimizer.direction, optimizer.policy, optimizer.reuse
    names = {axis: type(choice).__name__ for axis, choice in optimizer.axes.items()}
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
    if optimizer.micro_batch is not None and (names["policy"] != "Always" or reuse is not None):
        raise ValueError("micro-batches climb on every step, each for itself; leave out policy and reuse")
    if optimizer.micro_batch is not None and not direction.needs_gradient:
        raise ValueError(
            f"micro_batch gives each micro-batch its own ascent, but direction={names['direction']} is the same for all"
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

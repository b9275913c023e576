"""Which of the four choices go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware


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

r"""Decay SAM: the base optimizer alone while the learning rate is high, SAM for the tail in which it decays.

    climb where η_t ≤ fraction · max_{s ≤ t} η_s,   in any parameter group

Late SAM whose start is the schedule's own turn: it moves with the length of the training, and a warm-up, in which η_t is
the largest so far, does not count. `fraction` = 1 is SAM. The base and its state are the same throughout, so SAM goes on
from the momentum that is there. Cost: one gradient, then two.

After Zhou et al. 2024, https://arxiv.org/abs/2410.10373
"""

from itertools import zip_longest
from typing import Any

from torch.optim import Optimizer

from optimizers.core.policies import Policy
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step
from optimizers.ground.signatures import Share


class Decayed(Policy):
    """Once a group's learning rate is at most `fraction` of its largest so far."""

    counters = ("peaks",)

    def __init__(self, fraction: float = 0.5) -> None:
        self.fraction = fraction
        self.peaks: list[float] = []  # of each group

    def decides(self, step: Step) -> bool:
        """Compare each group's learning rate with its peak; one that has been 0 so far has none."""
        rates = [float(group["lr"]) for group in step.optimizer.param_groups]
        peaks = [max(rate, peak) for rate, peak in zip_longest(rates, self.peaks[: len(rates)], fillvalue=0.0)]
        step.later(self)["peaks"] = peaks
        return any(peak > 0 and rate <= self.fraction * peak for rate, peak in zip(rates, peaks, strict=True))


@register(
    "decay_sam",
    cost="1, then 2 where the learning rate has decayed",
    reference="after Zhou et al. 2024",
    rho_range=(0.02, 0.5),
    gradients=lambda steps: range(steps, 2 * steps + 1),
    example={"fraction": 1.0},
)
class DecaySAM(SharpnessAware):
    """SAM once the learning rate has fallen to a fraction of its largest, the base optimizer before."""

    def __init__(self, base: Optimizer, *, rho: float = 0.05, fraction: Share = 0.5, **options: Any) -> None:
        super().__init__(base, rho=rho, policy=Decayed(fraction), **options)

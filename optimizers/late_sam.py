r"""Late SAM: the base optimizer first, SAM from step `start` on (and, if wished, only until `stop`).

The last epochs with SAM find minima about as flat as SAM from the beginning. Any other schedule of ρ: write
`group["rho"]`, or pass `rho_schedule`.

Zhou, Wang, Mao, Chen, Gu, Zhang 2024, https://arxiv.org/abs/2410.10373
"""

from __future__ import annotations

from typing import Annotated, Any

from torch.optim import Optimizer

from optimizers.core.policies import Between
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.ground.signatures import Steps


@register(
    "late_sam",
    cost="1 before start, then 2",
    reference="Zhou et al. 2024",
    rho_range=(0.02, 0.5),
)
class LateSAM(SharpnessAware):
    """SAM between two steps, the base optimizer before and after."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        start: Annotated[int, Steps()] = 0,
        stop: Annotated[int, Steps()] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(base, rho=rho, policy=Between(start=start, stop=stop), **options)

r"""vSAM: climb more often while the perturbed gradient's own part h = g_s − g changes, and reuse h in between.

On each climb p = ‖h‖ and q = ‖h‖/‖g‖ are noted, and the variance of the last K values of p (sorted, in n_b blocks, the
mean of the blocks' variances). At the start of every window of K steps the number of climbs in it follows them:

    s ← clip(s (1 + α₁ r_q + α₂ r_v), 1, ⌊0.8 K⌋),   r = mean relative change along the history, clipped to [−1, 1]

Exactly ⌊s⌋ steps of the window climb, at random places: each with probability ⌊s⌋/K, and all that are left when no more
steps than climbs are. The first `warmup` steps all climb (the paper: 3 epochs). The j-th step after a climb descends
along g + γ^j h, from the seventh on along g. The history is that of the last K climbs, so s moves slowly where climbs are
few; a shorter one, as with small data sets, is used as it is. The norms are those of all tensors (the authors' code takes
the last ten).

Cost: from 1 + 1/K to 1 + ⌊0.8K⌋/K gradients a step after the warm-up. State: h, one copy, and 3K numbers; g and the clean
weights while a step climbs, when h is dropped. The host reads the norms once a window.

Deng et al. 2024, https://arxiv.org/abs/2403.08821
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.core.axes import Policy
from optimizers.core.draws import peeked
from optimizers.core.psf import DecayedPSF
from optimizers.core.registry import register
from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.core.step import Step
from optimizers.ground.signatures import Seed, Steps, at_least


class VarianceWindow(Policy):
    """⌊s⌋ climbs in each window of K steps, s led by the changes of ‖h‖/‖g‖ and of the variance of ‖h‖."""

    reads_both = True
    counters = ("s", "left", "climbs_left", "warmup_left", "lengths", "ratios", "variances", "rng")

    def __init__(
        self,
        *,
        window: int = 50,
        blocks: int = 5,
        cap: float = 0.8,
        alpha: tuple[float, float] = (0.13, 0.13),
        warmup: Annotated[int, at_least(0), Steps(epochs=3)] = 150,
        seed: int = 0,
    ) -> None:
        if window < 2 or not 0 < cap <= 1 or int(cap * window) < 1:
            raise ValueError(f"expected a window of at least two steps, one of them to climb; got {window} and {cap}")
        self.window = window
        self.blocks = blocks
        self.most = int(cap * window)
        self.alpha = alpha
        self.s = 1.0
        self.left = 0
        self.climbs_left = 0
        self.warmup_left = warmup
        self.lengths: list[float] = []
        self.ratios: list[float] = []
        self.variances: list[float] = []
        self._unread: list[Tensor] = []
        self.rng = torch.Generator().manual_seed(seed).get_state()  # on the host

    def state_dict(self) -> dict[str, Any]:
        """The counters, after reading what the device still holds."""
        self._read()
        return super().state_dict()

    def decides(self, step: Step) -> bool:
        """On warm-up steps, then on ⌊s⌋ random steps of each window: forced when no more steps than climbs are left."""
        later = step.later(self)
        if self.warmup_left:
            later["warmup_left"] = self.warmup_left - 1
            return True
        s, left, climbs_left = (self.s, self.left, self.climbs_left) if self.left else self._window()
        toss, rng = peeked(self.rng)
        climb = climbs_left > 0 and (toss < int(s) / self.window or climbs_left == left)
        later.update(s=s, left=left - 1, climbs_left=climbs_left - climb, rng=rng)
        return climb

    def after_ascent(self, step: Step) -> None:
        """Note ‖h‖ and ‖g‖, without waiting for them."""
        noted = torch.stack([step.psf.norm, step.clean.norm.to(step.psf.norm.device)])
        step.later(self)["_unread"] = [*self._unread, noted]

    def _window(self) -> tuple[float, int, int]:
        """s of a new window, its steps and its climbs."""
        self._read()
        r_q, r_v = _relative_change(self.ratios), _relative_change(self.variances)
        s = min(max(self.s * (1 + self.alpha[0] * r_q + self.alpha[1] * r_v), 1.0), float(self.most))
        return s, self.window, int(s)

    def _read(self) -> None:
        for length, gradient in torch.stack(self._unread).tolist() if self._unread else []:
            if math.isfinite(length) and math.isfinite(gradient) and gradient > 0:
                self.lengths = [*self.lengths, length][-self.window :]
                self.ratios = [*self.ratios, length / gradient][-self.window :]
                self.variances = [*self.variances, block_variance(self.lengths, self.blocks)][-self.window :]
        self._unread = []


def block_variance(values: list[float], blocks: int) -> float:
    """The mean, over equal blocks of the sorted values, of the unbiased variance in each; fewer blocks for few values."""
    blocks = min(blocks, len(values) // 2)
    if blocks == 0:
        return 0.0
    parts = torch.tensor(sorted(values), dtype=torch.float64).tensor_split(blocks)
    return float(torch.stack([part.var() for part in parts]).mean())


def _relative_change(history: list[float]) -> float:
    """The mean of (next − now)/now, clipped to [−1, 1]; 0 for a history too short to have any."""
    changes = [(after - now) / now for now, after in itertools.pairwise(history) if now > 0]
    return min(max(sum(changes) / len(changes), -1.0), 1.0) if changes else 0.0


@register(
    "vsam",
    gradients=lambda steps: (2 * steps,) if steps <= 150 else range(steps + 150, 2 * steps + 1),
    copies=(1, 2),
    reads=lambda steps: (len(range(150, steps, 50)),),
    cost="1.02 to 1.8 after the warm-up (1.3 to 1.6 in the paper)",
    state="1, and 2 on steps that climb",
    reference="Deng et al. 2024",
    rho_range=(0.02, 0.5),
    lengths={"warmup": 3.0},
)
class VSAM(SharpnessAware):
    """Climb as often as the change of h = g_s − g demands, at random places of each window; reuse h in between."""

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        window: int = 50,
        warmup: Annotated[int, at_least(0), Steps()] = 150,
        alpha: tuple[float, float] = (0.13, 0.13),
        gamma: float = 0.7,
        seed: Seed = 0,
        **options: Any,
    ) -> None:
        policy = VarianceWindow(window=window, warmup=warmup, alpha=alpha, seed=seed)
        super().__init__(base, rho=rho, policy=policy, reuse=DecayedPSF(gamma=gamma), **options)

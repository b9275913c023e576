"""An execution: how an experiment is carried out, on which device, in which parts, and what is written down on the way.

It is no part of what a run is: a run may be continued under another execution. Every checkpoint keeps the one under which
it was computed, and what makes the run no longer bit-equal to an uninterrupted one is said when it continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from landscape.devices import device_named
from landscape.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Execution(Settings):
    """Where and in which parts to train, how often to write, and what to record.

    The number of processes (`torchrun`) belongs here too and is no option: it decides as much as `micro_batch_size` does.

    Args:
        device: Where to train: `cpu`, `cuda`, `cuda:1`, `mps`. It decides the rounding of every number, and the masks of
            dropout, which each kind of device draws by a generator of its own.
        micro_batch_size: Examples per forward and backward pass, to fit memory; 0 takes the whole batch. The gradients
            add up to the batch's, summed in another order; dropout draws other masks. BatchNorm normalises over the
            micro-batch: that is another function, not rounding, so keep it where runs of such networks are compared.
        evaluation_examples: Training examples, the same for every run and evaluation, on which BatchNorm's statistics
            for evaluation are gathered and the training loss and accuracy measured; all where there are fewer. The test
            split is always evaluated whole. Each evaluation costs two forward passes of them, without BatchNorm one. It
            decides these recorded numbers, with BatchNorm those of the test split too, and never the training.
        checkpoint_every: Epochs between checkpoints. The first and the last point of the run are always kept. It decides
            no number.
        probe_every: Steps between the probes (L2-PSF, cosine of momentum and gradient, loss rise along the momentum);
            0 switches them off. Each costs two gradients and a loss of the whole batch, in every process, whatever the
            micro-batches, and never changes the training.
        probe_rho_sam: Radius of the probes' SAM perturbation.
        probe_rho_msam: Radius of the probes' momentum perturbation.
        workers: Processes that read ahead what is not resident; 0 reads in between. The numbers are the same to the bit.
        resident: Whether tensors lie on the device: `auto` where they take at most half of its free memory, `yes`, or `no`
            to have batches read from the host, as those of a map-style data set always are.
    """

    noun: ClassVar[str] = "an execution"
    bounds: ClassVar[Mapping[str, tuple[float, float | None]]] = {
        "micro_batch_size": (0, None),
        "evaluation_examples": (2, None),
        "checkpoint_every": (1, None),
        "probe_every": (0, None),
        "probe_rho_sam": (0.0, None),
        "probe_rho_msam": (0.0, None),
        "workers": (0, None),
    }

    device: str = "cpu"
    micro_batch_size: int = 0

    evaluation_examples: int = 10_000
    checkpoint_every: int = 10
    probe_every: int = 0
    probe_rho_sam: float = 0.05
    probe_rho_msam: float = 0.3

    workers: int = 0
    resident: Literal["auto", "yes", "no"] = "auto"

    def __post_init__(self) -> None:
        """Refuse what no run could mean."""
        super().__post_init__()
        device_named(self.device)
        if self.resident not in ("auto", "yes", "no"):
            raise ValueError(f"resident: expected auto, yes or no, got {self.resident!r}")

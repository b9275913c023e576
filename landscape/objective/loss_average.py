r"""What a loss averages over: the denominator of its mean, so that uneven batches add up to the mean over all the data.

    L = Σ_b W_b ℓ_b / Σ_b W_b        W_b the denominator of batch b

| torch's loss                            | W_b                                                      |
|-----------------------------------------|----------------------------------------------------------|
| cross-entropy, NLL, classes as indices  | Σ w_y over the targets y that are not `ignore_index`     |
| cross-entropy, classes as probabilities | the positions: entries of the targets over classes       |
| MSE, L1, Huber, BCE (also weighted), …  | the entries of the targets                               |
| anything else                           | rows of the targets, or what `count` says                |

This is torch's own arithmetic, so that L is what torch gives for all the data in one batch. A loss of its kind with
`reduction="sum"` is refused. A loss that is one of torch's of a part of the outputs, or of outputs and targets in another
arrangement, says so by an attribute `torch_loss`, which is a `TorchLoss`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
}
ELEMENTS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.MSELoss: F.mse_loss,
    nn.L1Loss: F.l1_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.HuberLoss: F.huber_loss,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.BCELoss: F.binary_cross_entropy,
    nn.PoissonNLLLoss: F.poisson_nll_loss,
    nn.SoftMarginLoss: F.soft_margin_loss,
    nn.KLDivLoss: F.kl_div,
}


@dataclass(frozen=True)
class TorchLoss:
    """One of torch's losses with its settings, whether it was given as a module, a function or a partial of one.

    `of_outputs` and `of_targets` make of what the model returns, and of the data's targets, what the loss takes.
    """

    function: Callable[..., Tensor]
    settings: Mapping[str, Any]
    of_outputs: Callable[[Any], Any] = lambda outputs: outputs
    of_targets: Callable[[Tensor], Tensor] = lambda targets: targets

    @property
    def by_class(self) -> bool:
        """Whether the targets are classes."""
        return self.function in CLASSES.values()

    def denominators(self, targets: Tensor) -> Tensor:
        """What each term of the mean adds to its denominator: by position for classes, else by entry."""
        targets = self.of_targets(targets)
        if not self.by_class:
            if self.settings.get("reduction") == "batchmean":
                return torch.ones(len(targets), device=targets.device)
            return torch.ones((), device=targets.device).expand(targets.shape)
        if targets.is_floating_point():  # probabilities, with the classes along dimension 1
            positions = targets.shape[:1] + targets.shape[2:] if targets.ndim > 1 else torch.Size()
            return torch.ones((), device=targets.device).expand(positions)
        ignored = self.settings.get("ignore_index")
        counted = targets != (-100 if ignored is None else ignored)
        weight = self.settings.get("weight")
        if weight is None:
            return counted.to(torch.float32)
        return weight.to(targets.device)[targets.masked_fill(~counted, 0)] * counted

    def rows(self, targets: Tensor) -> Tensor:
        """The denominator of each row's own mean, (N,) in float64."""
        terms = self.denominators(targets)
        return terms.reshape(len(targets), -1).sum(1, dtype=torch.float64)

    def total(self, targets: Tensor) -> float:
        """The denominator of the batch's mean; one read from the device for classes."""
        terms = self.denominators(targets)
        return float(terms.sum(dtype=torch.float64)) if self.by_class else float(terms.numel())


def torch_loss(loss_fn: Callable[..., Any]) -> TorchLoss | None:
    """The loss of torch that `loss_fn` is, or None; one that adds up instead of averaging is a `ValueError`."""
    known = _recognised(loss_fn)
    if known is not None and known.settings.get("reduction") == "sum":
        raise ValueError(
            f'expected a loss that is a mean over its batch, got {loss_fn!r} with reduction="sum": curvature and '
            'sharpness would grow with the data; use reduction="mean" and multiply results by the number of terms '
            "where the sum is wanted"
        )
    return known


def _recognised(loss_fn: Callable[..., Any]) -> TorchLoss | None:
    described = getattr(loss_fn, "torch_loss", None)
    if isinstance(described, TorchLoss):
        return described
    functions = {**CLASSES, **ELEMENTS}
    if isinstance(loss_fn, nn.Module):
        for kind, function in functions.items():
            # A subclass with a forward of its own computes something else.
            if isinstance(loss_fn, kind) and type(loss_fn).forward is kind.forward:
                names = ("reduction", "ignore_index", "weight", "pos_weight")
                return TorchLoss(function, {name: getattr(loss_fn, name, None) for name in names})
        return None
    settings: dict[str, Any] = {}
    while isinstance(loss_fn, functools.partial):
        if loss_fn.args:
            return None
        settings = {**loss_fn.keywords, **settings}
        loss_fn = loss_fn.func
    return TorchLoss(loss_fn, settings) if loss_fn in functions.values() else None

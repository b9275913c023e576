r"""Language modelling: the cross-entropy of the next token, a mean over the tokens that count.

    L = −Σ_{t: y_t ≠ −100} log p(y_t | x_≤t) / #{t: y_t ≠ −100}        perplexity = exp L

Outputs (…, V) at each position, targets (…): the token that follows, or −100 where none is asked for (padding, a prompt).
With `shift=True` targets are the inputs themselves, as Hugging Face's `labels` are, and outputs at t are held against
targets at t + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from landscape.objective.loss_average import TorchLoss
from landscape.tasks.checks import require_rows, require_whole
from landscape.tasks.task import Task, tasks
from optimizers.ground.signatures import between

IGNORED = -100


class Language(Task):
    """Mean cross-entropy over next tokens, −100 ignored; perplexity and the accuracy of the likeliest token."""

    metrics: ClassVar = {"perplexity": "", "accuracy": "fraction"}

    def __init__(
        self, *, shift: bool = False, label_smoothing: Annotated[float, between(0, 1)] = 0.0, output: str = ""
    ) -> None:
        self.shift, self.label_smoothing, self.output = shift, label_smoothing, output
        self.torch_loss = TorchLoss(
            F.cross_entropy,
            {"ignore_index": IGNORED, "label_smoothing": label_smoothing},
            of_outputs=lambda output: self._predicting(self.prediction(output)).movedim(-1, 1),
            of_targets=self._asked,
        )

    def _predicting(self, logits: Tensor) -> Tensor:
        return logits[:, :-1] if self.shift else logits

    def _asked(self, targets: Tensor) -> Tensor:
        return targets[:, 1:] if self.shift else targets

    def count(self, targets: Tensor) -> Tensor:
        """Tokens that are not ignored."""
        return (self._asked(targets) != IGNORED).sum()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over tokens, in nats."""
        return self._total(outputs, targets, self.label_smoothing) / self.count(targets).clamp(min=1)

    def _total(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        logits, asked = self._predicting(outputs).flatten(0, -2), self._asked(targets).flatten()
        return F.cross_entropy(
            logits, asked, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
        )  # a batch without a token that counts has loss 0, where torch's mean is 0/0

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Negative log-likelihood, without smoothing, and tokens that are the likeliest; an ignored one is none."""
        right = self._predicting(outputs).argmax(-1) == self._asked(targets)
        return {"likelihood": self._total(outputs, targets, 0.0), "accuracy": right.sum()}

    def measured(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Perplexity and accuracy."""
        count = sums["count"]
        return {"perplexity": torch.exp(sums["likelihood"] / count), "accuracy": sums["accuracy"] / count}

    def check(self, outputs: Any, targets: Any) -> None:
        """Outputs (…, V), targets (…) tokens from 0 to V − 1 or −100, one at least that counts."""
        require_rows(outputs, targets)
        require_whole(targets, "language modelling takes tokens")
        if outputs.shape[1:-1] != targets.shape[1:]:
            shape = ", ".join(map(str, targets.shape[1:]))
            raise ValueError(
                f"expected outputs (N, {shape}, tokens), one row of logits for each target, "
                f"got {tuple(outputs.shape)} for targets {tuple(targets.shape)}"
            )
        if self.shift and targets.ndim < 2:
            raise ValueError(f"shift=true expects targets (N, length), got {tuple(targets.shape)}")
        asked = self._asked(targets)
        counted = asked[asked != IGNORED]
        if not counted.numel():
            raise ValueError(f"expected a target that counts, got none that is not {IGNORED}")
        low, high = torch.stack(counted.aminmax()).tolist()
        if low < 0 or high >= outputs.shape[-1]:
            raise ValueError(
                f"expected tokens from 0 to {outputs.shape[-1] - 1}, since the model has {outputs.shape[-1]} "
                f"outputs, or {IGNORED} for those to ignore, got {low} to {high}"
            )

    def __repr__(self) -> str:
        return f"CrossEntropyLoss() of {'shifted ' if self.shift else ''}tokens"


tasks.register(Language, name="language")

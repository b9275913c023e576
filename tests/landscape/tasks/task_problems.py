"""Data, models and tasks that are no image classification, by import path: what a user of the toolkit writes."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape.data import Data, Split
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.tasks import Task

IGNORED = -100
TOKENS = 11


def pairs(examples: int = 30, missing: float = 0.0) -> Data:
    """Two inputs and two numbers to tell from them, some of which are missing (NaN), unevenly."""
    random = torch.Generator().manual_seed(1)
    x, u = torch.randn(2 * examples, 3, generator=random), torch.randn(2 * examples, 2, generator=random)
    y = 3 + torch.stack([x[:, 0] * u[:, 0], x.sum(1) - u[:, 1]], 1)
    y = y.masked_fill(
        torch.rand(y.shape, generator=random) < missing * torch.linspace(0, 2, 2 * examples)[:, None], torch.nan
    )
    y[:, 0] = torch.where(y.isnan().all(1), 1.0, y[:, 0]) if missing else y[:, 0]
    return Data(Split((x[:examples], u[:examples]), y[:examples]), Split((x[examples:], u[examples:]), y[examples:]))


class Two(nn.Module):
    """Takes two tensors and returns a dict."""

    def __init__(self, width: int = 6, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, width), nn.Linear(2, width)
        self.drop, self.last = nn.Dropout(dropout), nn.Linear(width, 2)

    def forward(self, x: Tensor, u: Tensor) -> dict[str, Tensor]:
        hidden = self.drop(torch.tanh(self.first(x) + self.second(u)))
        return {"hidden": hidden, "prediction": self.last(hidden)}


class Present(Task):
    """Squared error of the numbers that are there, a mean over them."""

    metrics: ClassVar = {"mae": "targets"}

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        there = ~targets.isnan()
        return (outputs - targets)[there].square().sum() / there.sum().clamp(min=1)

    def count(self, targets: Tensor) -> Tensor:
        return (~targets.isnan()).sum()

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"mae": (outputs - targets).abs().nansum()}


def sentences(examples: int = 30, length: int = 7, shift: bool = False) -> Data:
    """Sequences in which each token follows from the last two; their ends are not asked for, unevenly."""
    random = torch.Generator().manual_seed(2)
    text = torch.randint(TOKENS, (2 * examples, length + 1), generator=random)
    for t in range(2, length + 1):
        text[:, t] = (text[:, t - 1] + 2 * text[:, t - 2]) % TOKENS
    inputs, targets = (text, text.clone()) if shift else (text[:, :-1], text[:, 1:].clone())
    lengths = torch.randint(0, length + 1, (2 * examples,), generator=random)
    targets[torch.arange(targets.shape[1]) >= lengths[:, None]] = IGNORED
    given = [{"tokens": part, "scale": torch.ones(len(part))} for part in inputs.split(examples)]
    return Data(*(Split(part, of) for part, of in zip(given, targets.split(examples), strict=True)))


class Said(NamedTuple):
    """What `Gpt` returns."""

    logits: Tensor
    hidden: Tensor


class Gpt(nn.Module):
    """One block of a transformer that reads from left to right."""

    def __init__(self, width: int = 8, length: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(TOKENS, width), nn.Embedding(length, width)
        self.norm, self.attention = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.drop, self.feed = (
            nn.Dropout(dropout),
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)),
        )
        self.head = nn.Linear(width, TOKENS, bias=False)

    def forward(self, tokens: Tensor, scale: Tensor) -> Said:
        x = (self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))) * scale[
            :, None, None
        ]
        q, k, v = self.attention(self.norm(x))[:, None].chunk(3, -1)
        x = x + self.drop(F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])
        x = x + self.feed(x)
        return Said(self.head(x), x)


HERE = __name__
COMMON = Experiment(epochs=2, batch_size=12, warmup_epochs=0.0, lr=0.05, optimizer="sam")
REGRESSION = COMMON.replace(data=f"{HERE}:pairs", model=f"{HERE}:Two", task="regression")
OWN = REGRESSION.replace(task=f"{HERE}:Present", data_options={"missing": 0.4})
LANGUAGE = COMMON.replace(data=f"{HERE}:sentences", model=f"{HERE}:Gpt", task="language")
SHIFTED = LANGUAGE.replace(data_options={"shift": True}, task_options={"shift": True})
DIGITS = COMMON.replace(data_options={"train_examples": 30}, model_options={"widths": [6]})
EXECUTION = Execution(checkpoint_every=1, probe_every=2)
EXPERIMENTS = {"classification": DIGITS, "regression": REGRESSION, "own": OWN, "language": LANGUAGE, "shifted": SHIFTED}

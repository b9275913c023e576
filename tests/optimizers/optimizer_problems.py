"""Small problems and hand-written recursions that share no code with the optimizers: gradients are formulas, not autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import optimizers


class Vector(nn.Module):
    """A model of one parameter vector, split in two tensors so that norms must run over both."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        half = len(start) // 2
        self.head = nn.Parameter(start[:half].clone())
        self.tail = nn.Parameter(start[half:].clone())

    @property
    def vector(self) -> Tensor:
        return torch.cat([self.head, self.tail])


@dataclass
class Problem:
    """A loss over minibatches with its gradient as a formula: `gradient(w, batch)`."""

    start: Tensor
    loss: Callable[[Tensor, int], Tensor]
    gradient: Callable[[Tensor, int], Tensor]


def quadratic(seed: int = 0, size: int = 7) -> Problem:
    """½ (w − c_b)ᵀ A (w − c_b), another centre for each of five batches."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.T / size + 0.1 * torch.eye(size, dtype=torch.float64)
    centres = torch.randn(5, size, generator=generator, dtype=torch.float64)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    return Problem(
        start,
        lambda w, batch: 0.5 * (w - centres[batch % 5]) @ matrix @ (w - centres[batch % 5]),
        lambda w, batch: matrix @ (w - centres[batch % 5]),
    )


def logistic(seed: int = 0, size: int = 6) -> Problem:
    """Mean logistic loss of 8 examples, another 8 for each of five batches."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(5, 8, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (5, 8), generator=generator).double()
    start = torch.randn(size, generator=generator, dtype=torch.float64)

    def gradient(w: Tensor, batch: int) -> Tensor:
        x, y = inputs[batch % 5], labels[batch % 5]
        return x.T @ (1 / (1 + torch.exp(-(x @ w))) - y) / len(y)

    def loss(w: Tensor, batch: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(inputs[batch % 5] @ w, labels[batch % 5])

    return Problem(start, loss, gradient)


PROBLEMS = {"quadratic": quadratic, "logistic": logistic}


@dataclass
class Recursion:
    """A base optimizer's recursion, written out on one vector."""

    name: str
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.01
    t: int = 0
    first: Tensor | None = None
    second: Tensor | None = field(default=None, repr=False)

    def step(self, w: Tensor, g: Tensor) -> Tensor:
        self.t += 1
        if self.name == "adamw":
            first = torch.zeros_like(w) if self.first is None else self.first
            second = torch.zeros_like(w) if self.second is None else self.second
            self.first = 0.9 * first + 0.1 * g
            self.second = 0.999 * second + 0.001 * g * g
            unbiased = self.first / (1 - 0.9**self.t)
            spread = (self.second / (1 - 0.999**self.t)).sqrt() + 1e-8
            return w - self.lr * self.weight_decay * w - self.lr * unbiased / spread
        d = g + self.weight_decay * w
        self.first = d if self.first is None else self.momentum * self.first + d
        return w - self.lr * (d + self.momentum * self.first if self.name == "nesterov" else self.first)


BASES: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01),
}


def trajectory(
    make: Callable[[torch.optim.Optimizer], optimizers.SharpnessAware], base: str, problem: Problem, steps: int
) -> Tensor:
    """The clean weights after each step of the optimizer under test, (steps, size)."""
    model = Vector(problem.start)
    optimizer = make(BASES[base](list(model.parameters())))
    path = []
    for batch in range(steps):

        def closure(batch: int = batch) -> Tensor:
            optimizer.zero_grad()
            loss = problem.loss(model.vector, batch)
            loss.backward()
            return loss

        optimizer.step(closure)
        path.append(model.vector.detach().clone())
    return torch.stack(path)


def unit(vector: Tensor) -> Tensor:
    """vector/‖vector‖, or zero."""
    length = (vector * vector).sum().sqrt()
    return vector / length if length > 0 else vector


class Scores(Vector):
    """Logits of examples: inputs @ vector."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.vector


class LogisticBatches:
    """The logistic problem of `logistic()`, with its examples, its Hessian and closures that know their batch."""

    def __init__(self, seed: int = 0, size: int = 6, examples: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(5, examples, size, generator=generator, dtype=torch.float64)
        self.labels = torch.randint(0, 2, (5, examples), generator=generator).double()
        self.start = torch.randn(size, generator=generator, dtype=torch.float64)

    def batch(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.inputs[batch % 5], self.labels[batch % 5]

    def model(self) -> Scores:
        return Scores(self.start)

    def closure(self, model: nn.Module, batch: int) -> optimizers.BatchClosure:
        return optimizers.BatchClosure(model, nn.functional.binary_cross_entropy_with_logits, *self.batch(batch))

    def losses(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        score = x @ w
        return torch.log1p(torch.exp(score)) - y * score

    def mean_gradient(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return x.T @ (1 / (1 + torch.exp(-(x @ w))) - y) / len(y)

    def gradient(self, w: Tensor, batch: int) -> Tensor:
        return self.mean_gradient(w, *self.batch(batch))

    def hessian(self, w: Tensor, batch: int) -> Tensor:
        x, y = self.batch(batch)
        p = 1 / (1 + torch.exp(-(x @ w)))
        return (x.T * (p * (1 - p))) @ x / len(y)

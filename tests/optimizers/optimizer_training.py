"""A small training that every contract test drives: a net with a little of everything, and a stream of batches."""

import warnings

import pytest
import pytorch_optimizer
import torch
from torch import nn

import optimizers

BASES = {
    "sgd": lambda p, **o: torch.optim.SGD(p, **{"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3} | o),
    "nesterov": lambda p, **o: torch.optim.SGD(
        p, **{"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3} | o
    ),
    "adamw": lambda p, **o: torch.optim.AdamW(p, **{"lr": 0.01} | o),
    "lion": lambda p, **o: pytorch_optimizer.Lion(p, **{"lr": 0.01} | o),  # from outside torch
}
METHODS = optimizers.available()
CLOSURE_FREE = [method for method in METHODS if optimizers.describe(method).closure_free]
TWO_GRADIENTS = [method for method in METHODS if not optimizers.describe(method).closure_free]
PERTURBING = [method for method in METHODS if optimizers.describe(method).moves != "nothing"]
LOOK_INTO_THE_BATCH = [
    method for method in METHODS if optimizers.describe(method).needs_batch
]  # a plain closure is not enough for these

over_methods = pytest.mark.parametrize("method", METHODS)
over_all = pytest.mark.parametrize(("method", "base"), [(m, b) for m in METHODS for b in BASES])


class Net(nn.Module):
    """A little of everything that has a state of its own: batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 8, bias=False),
            nn.BatchNorm1d(8, affine=False), nn.Tanh(),
        )  # fmt: skip
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


class Smooth(nn.Module):
    """Without a state: what is computed depends on weights and batch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


class Training:
    """A model, an optimizer and a stream of batches that depends on the step number alone.

    `method` is a name, a function of the base, or None for the base alone.
    """

    def __init__(self, method, base="sgd", *, seed=0, net=Net, dtype=torch.float32, options=None, **hyperparameters):
        torch.manual_seed(seed)
        self.model = net().to(dtype)
        self.dtype = dtype
        self.base = BASES[base](self.model.parameters(), **(options or {}))
        self.optimizer = self.base
        if callable(method):
            self.optimizer = method(self.base, **hyperparameters)
        elif method:
            self.optimizer = create(method, self.base, **hyperparameters)
        self.number = 0

    def closure(self):
        generator = torch.Generator().manual_seed(self.number)
        x = torch.randn(16, 5, generator=generator).to(self.dtype)
        y = torch.randint(0, 3, (16,), generator=generator)
        return optimizers.BatchClosure(self.model, nn.functional.cross_entropy, x, y)

    def step(self, *, closure_free=False, **options):
        closure = self.closure()
        if closure_free:
            closure()
            self.optimizer.step(**options)
        else:
            self.optimizer.step(closure, **options)
        self.number += 1

    def run(self, steps, **options):
        for _ in range(steps):
            self.step(**options)
        return self

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def create(method, base, **hyperparameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these problems want other radii than CIFAR does
        return optimizers.create(method, base, **{**optimizers.describe(method).example, **hyperparameters})


def with_radius(method, rho):
    return {"rho": rho} if method in PERTURBING else {}


def parts_of(training):
    """How many parts of a batch of 16 climb for themselves."""
    return 16 // (training.optimizer.m or 16)


def climbs(training, steps):
    """Which of the next steps take a second gradient."""
    taken = []
    for _ in range(steps):
        before = training.optimizer.gradient_evaluations
        training.step()
        taken.append(training.optimizer.gradient_evaluations - before == 2)
    return taken


def same(left, right):
    """Equal to the bit, whatever is nested."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right

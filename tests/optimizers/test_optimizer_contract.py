"""What every registered method guarantees, over every base: one law, all variants."""

import copy
import warnings

import pytest
import torch
from torch import nn

import optimizers

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}
METHODS = optimizers.available()
over_all = pytest.mark.parametrize(("method", "base"), [(m, b) for m in METHODS for b in BASES])


class Net(nn.Module):
    """A little of everything that has a state of its own: batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(8, 8, bias=False),
            nn.BatchNorm1d(8, affine=False),
            nn.Tanh(),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        return self.layers(x)


class Training:
    """A model, an optimizer and a stream of batches that depends on the step number alone."""

    def __init__(self, method, base, *, seed=0, **hyperparameters):
        torch.manual_seed(seed)
        self.model = Net()
        base = BASES[base](self.model.parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these problems want other radii than CIFAR
            self.optimizer = optimizers.create(method, base, **hyperparameters) if method else base
        self.number = 0

    def closure(self):
        generator = torch.Generator().manual_seed(self.number)
        x = torch.randn(12, 5, generator=generator)
        y = torch.randint(0, 3, (12,), generator=generator)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        return loss

    def run(self, steps, *, closure_free=False):
        for _ in range(steps):
            if closure_free:
                self.closure()
                self.optimizer.step()
            else:
                self.optimizer.step(self.closure)
            self.number += 1
        return self

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def same(left, right):
    """Equal to the bit, whatever is nested."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def without_radius(method):
    return {"rho": 0.0} if "rho" in optimizers.describe(method).defaults else {}


@over_all
def test_rho_zero_is_the_base_optimizer(method, base):
    ours = Training(method, base, **without_radius(method)).run(6)
    random_ours = torch.rand(3)
    plain = Training(None, base).run(6)
    assert same(random_ours, torch.rand(3))  # dropout has drawn as often
    assert same(ours.model.state_dict(), plain.model.state_dict())


@over_all
def test_resumed_equals_uninterrupted(method, base):
    whole = Training(method, base).run(13)
    first = Training(method, base).run(7)
    saved = copy.deepcopy((first.model.state_dict(), first.optimizer.state_dict(), torch.get_rng_state()))
    second = Training(method, base, seed=1)
    second.model.load_state_dict(saved[0])
    second.optimizer.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    second.number = 7
    second.run(6)
    assert same(second.model.state_dict(), whole.model.state_dict())
    assert same(second.optimizer.state_dict(), whole.optimizer.state_dict())
    assert second.optimizer.param_groups is second.optimizer.base.param_groups


@over_all
def test_perturbation_has_length_rho(method, base):
    training = Training(method, base).run(3)
    rho = abs(training.optimizer.param_groups[0]["rho"])
    length = torch.cat([e.flatten() for e in training.optimizer.perturbation()]).norm()
    torch.testing.assert_close(length, torch.tensor(rho), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("method", "cost"), [("plain", 1), ("sam", 2), ("msam", 1)])
def test_gradient_evaluations_are_counted(method, cost):
    training = Training(method, "sgd")
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        return training.closure()

    for _ in range(5):
        training.optimizer.step(closure)
    assert calls == training.optimizer.gradient_evaluations == 5 * cost
    assert training.optimizer.state_dict()["sharpness_aware"]["gradient_evaluations"] == 5 * cost

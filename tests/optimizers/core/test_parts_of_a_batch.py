"""What a hook spends on a part of a batch is counted, by the part's share of the batch."""

import pytest
import torch
from optimizer_training import Smooth, Training

import optimizers


class Curious(optimizers.Euclidean):
    """A metric that looks at a gradient of its own, or says that it did, on the parts that it cares about."""

    def __init__(self, how, parts):
        self.how, self.parts, self.seen = how, parts, 0

    def observe(self, step):
        self.seen += 1
        if self.seen % 4 not in self.parts:
            return
        if self.how == "counts":
            step.count()
            return
        kept = [parameter.grad for parameter in step.optimizer.parameters]
        step.evaluate(step.closure, anew=True)
        for parameter, gradient in zip(step.optimizer.parameters, kept, strict=True):
            parameter.grad = gradient


def spent(m, metric):
    training = Training(None, net=Smooth)
    training.optimizer = optimizers.SharpnessAware(training.base, rho=0.1, metric=metric, m=m)
    training.run(3)
    return training


@pytest.mark.parametrize("how", ["counts", "evaluates"])
@pytest.mark.parametrize(
    ("m", "parts", "a_step"),
    [
        (None, range(4), 3),
        (16, range(4), 3),
        (4, range(4), 3),
        (5, range(4), 3),
        (4, (), 2),
        (4, (1, 2), 3),
        (4, (1,), 3),
    ],
)
def test_what_hooks_spend_on_parts_counts_by_their_share(m, parts, a_step, how):
    """All parts make one gradient of the batch, two of four make half a one, which rounds up."""
    training = spent(m, Curious(how, parts))
    assert training.optimizer.gradient_evaluations == 3 * a_step
    plain = spent(m, optimizers.Euclidean())
    assert plain.optimizer.gradient_evaluations == 3 * 2
    assert all(map(torch.equal, training.weights(), plain.weights()))

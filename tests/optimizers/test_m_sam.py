"""Micro-batches taken at once, and one of them that is not finite."""

import torch
from optimizer_training import Smooth, Training

import optimizers


class PoisonedOnce(torch.autograd.Function):
    """The identity, whose gradient is infinite for marked examples in the first backward pass of all."""

    generate_vmap_rule = True
    passes = 0

    @staticmethod
    def forward(x, marks):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, gradient):
        PoisonedOnce.passes += 1
        (marks,) = ctx.saved_tensors
        return (gradient.masked_fill(marks[:, None] > 0, torch.inf) if PoisonedOnce.passes == 1 else gradient), None


def test_vectorised_micro_batches_climb_without_the_one_that_is_not_finite():
    """Taken at once they have one backward pass; the micro-batch that is not finite in it stays, the others climb."""
    training = Training("m_sam", net=Smooth, m=8, vectorize=True)
    body, batch = training.model.body, training.closure()
    marks = torch.zeros(16)
    marks[3] = 1.0
    training.model.forward = lambda x: training.model.head(PoisonedOnce.apply(body(x[:, :5]), x[:, 5]))
    PoisonedOnce.passes = 0
    inputs = torch.cat([batch.inputs, marks[:, None]], dim=1)
    training.optimizer.step(optimizers.BatchClosure(training.model, batch.loss_fn, inputs, batch.targets))
    assert PoisonedOnce.passes == 2
    assert training.optimizer.skipped_ascents == 1

    still, climbs = (Training(method, net=Smooth) for method in ("plain", "sam"))
    gradients = []
    for part, reference in zip(batch.split(8), (still, climbs), strict=True):
        reference.optimizer.step(optimizers.BatchClosure(reference.model, part.loss_fn, part.inputs, part.targets))
        gradients.append([p.grad for p in reference.model.parameters()])
    for parameter, first, second in zip(training.model.parameters(), *gradients, strict=True):
        torch.testing.assert_close(parameter.grad, (first + second) / 2, rtol=1e-5, atol=1e-6)

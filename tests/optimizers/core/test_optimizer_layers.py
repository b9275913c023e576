"""Which layers a parameter and a running statistic belong to: seen whatever hides them, or refused."""

import gc

import pytest
import torch
from optimizer_training import LOOK_INTO_THE_BATCH, Net, Training, over_methods, same
from torch import nn

import optimizers
from optimizers.core import passes as batch_norm

CURE = r"gc.freeze\(\) hides .*model=model for the optimizer, or step\(optimizers.BatchClosure"


@pytest.fixture
def hidden():
    """Everything alive is hidden from the garbage collector."""

    def hide():
        gc.collect()
        gc.freeze()

    yield hide
    gc.unfreeze()


def step(training, *, batch=False):
    closure = training.closure()
    training.optimizer.step(closure if batch or training.looks else lambda: closure())
    training.number += 1


def make(method, net=Net, **options):
    training = Training(method, net=net, **options)
    training.looks = method in LOOK_INTO_THE_BATCH
    return training


@over_methods
def test_objects_hidden_from_the_garbage_collector_train_the_same(method, hidden):
    """Statistics are written once a step all the same; a choice by layers finds them or says what to do."""
    reference, training = make(method), make(method)
    for _ in range(3):
        step(reference)
    hidden()
    torch.manual_seed(0)
    training = Training(method)
    training.looks = method in LOOK_INTO_THE_BATCH
    gc.freeze()
    if method in ("asam", "sam_on", "msam_on"):
        if method == "msam_on":
            step(training)  # no momentum yet, so no choice
        before = training.weights()
        with pytest.raises(RuntimeError, match=CURE):
            step(training)
        assert same(training.weights(), before)
        for options in ({"model": True}, {}):
            torch.manual_seed(0)
            training = make(method)
            gc.freeze()
            if options:
                training.optimizer = optimizers.create(method, training.base.__class__(
                    training.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3), model=training.model)  # fmt: skip
            for _ in range(3):
                step(training, batch=not options)
            assert same(training.model.state_dict().keys(), reference.model.state_dict().keys())
            assert int(training.model.body[1].num_batches_tracked) == 3
        return
    for _ in range(3):
        step(training)
    assert int(training.model.body[1].num_batches_tracked) == int(reference.model.body[1].num_batches_tracked)
    assert int(training.model.body[5].num_batches_tracked) == int(reference.model.body[5].num_batches_tracked)


@over_methods
def test_layers_that_come_later_are_frozen_too(method):
    """Exchanged between steps, without a parameter, unknown to the optimizer: no search, so none is missed."""
    training = make(method)
    step(training)
    training.model.body[5] = nn.BatchNorm1d(8, affine=False)
    training.model.body[1] = nn.SyncBatchNorm.convert_sync_batchnorm(training.model.body[1])
    training.model.body[1].forward = nn.BatchNorm1d.forward.__get__(
        training.model.body[1]
    )  # no group of processes here
    outside = nn.BatchNorm1d(3, affine=False)
    head = training.model.head.forward
    training.model.head.forward = lambda x: outside(head(x))
    step(training)
    step(training)
    passes = 4 if method == "m_sam" else 2
    assert int(training.model.body[5].num_batches_tracked) == passes
    assert int(outside.num_batches_tracked) == passes


def test_the_class_answers_only_inside_the_block():
    layer = nn.BatchNorm1d(3)
    with batch_norm.all_frozen():
        with batch_norm.all_frozen(), batch_norm.frozen_batch_norm(layer):
            assert not layer.track_running_stats
        assert not layer.track_running_stats
        layer.track_running_stats = True  # for later
        assert not layer.track_running_stats
        assert not nn.BatchNorm2d(3).track_running_stats
    with pytest.raises(KeyError), batch_norm.all_frozen():
        raise KeyError
    assert layer.track_running_stats
    assert "track_running_stats" not in vars(nn.modules.batchnorm._BatchNorm)


@pytest.mark.parametrize("inner", [False, True], ids=["eager model", "compiled model"])
@pytest.mark.parametrize("method", ["sam", "msam", "asam", "sam_on", "m_sam", "looksam", "vsam"])
def test_a_compiled_step_is_the_step(method, inner):
    torch._dynamo.reset()
    plain, compiled = make(method), make(method)
    for training in (plain, compiled):
        training.model.body[3].p = 0.0
    if inner:
        compiled.model.compile(backend="eager")
    jump = torch.compile(compiled.optimizer.step, backend="eager")
    for _ in range(3):
        plain.step()
        jump(compiled.closure())
        compiled.number += 1
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_compiled_code_with_hidden_layers_is_refused_or_told_the_model(hidden):
    torch._dynamo.reset()
    torch.manual_seed(0)
    trainings = [make("sam") for _ in range(2)]
    hidden()
    for training in trainings:
        forward = torch.compile(lambda x, model=training.model: model(x), backend="eager")
        training.forward = forward

    def closure_of(training):
        batch = training.closure()

        def closure():
            training.model.zero_grad()
            loss = batch.loss_fn(training.forward(batch.inputs), batch.targets)
            loss.backward()
            return loss

        return closure

    refused, told = trainings
    with pytest.raises(RuntimeError, match=CURE):
        refused.optimizer.step(closure_of(refused))
    told.optimizer.model = told.model
    for _ in range(3):
        told.optimizer.step(closure_of(told))
    assert int(told.model.body[1].num_batches_tracked) == 3


# Which tensors ASAM stretches


class Named(nn.Module):
    """A tensor of each kind of name."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(4))
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.gate = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.norm(self.layer(x + self.cls_token)) * self.gate


def reference_epsilon(model, rho, eta, adaptive):
    """ε = ρ T² g/‖T g‖ as SamsungLabs/ASAM has it, with T chosen by the name."""
    stretch = {n: p.detach().abs() + eta if adaptive(n) else torch.ones_like(p) for n, p in model.named_parameters()}
    length = torch.cat([(stretch[n] * p.grad).flatten() for n, p in model.named_parameters()]).norm()
    return [rho * stretch[n] ** 2 * p.grad / length for n, p in model.named_parameters()]


@pytest.mark.parametrize("how", ["named parameters", "model", "batch"])
def test_asam_stretches_the_authors_tensors_if_asked(how):
    model = Named()
    base = torch.optim.SGD(model.named_parameters() if how == "named parameters" else model.parameters(), lr=0.1)
    options = {"model": model} if how == "model" else {}
    optimizer = optimizers.ASAM(base, rho=0.5, adapts="weights", **options)
    closure = optimizers.BatchClosure(model, nn.functional.mse_loss, torch.randn(8, 4), torch.randn(8, 4))
    optimizer.step(closure)
    closure()
    expected = reference_epsilon(model, 0.5, 0.01, lambda name: "weight" in name)
    for ours, theirs in zip(optimizer.perturbation(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_asam_stretches_all_but_biases_by_default():
    model = Named()
    optimizer = optimizers.ASAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
    optimizers.BatchClosure(model, nn.functional.mse_loss, torch.randn(8, 4), torch.randn(8, 4))()
    expected = reference_epsilon(model, 0.5, 0.01, lambda name: "bias" not in name)
    for ours, theirs in zip(optimizer.perturbation(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_asam_says_what_it_needs_to_choose_by_name():
    model = Named()
    with pytest.raises(ValueError, match="adapts: expected one of all but biases, weights, got 'norms'"):
        optimizers.ASAM(torch.optim.SGD(model.parameters(), lr=0.1), adapts="norms")
    optimizer = optimizers.ASAM(torch.optim.SGD(model.parameters(), lr=0.1), adapts="weights")
    optimizers.BatchClosure(model, nn.functional.mse_loss, torch.randn(8, 4), torch.randn(8, 4))()
    with pytest.raises(ValueError, match=r"got 6 without; .*model=model, or its base with model.named_parameters\(\)"):
        optimizer.perturbation()

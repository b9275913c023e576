"""Which layers a parameter and a running statistic belong to: seen whatever hides them, or refused."""

import gc
import sys

import pytest
import torch
from expectations import expected
from optimizer_training import CLOSURE_FREE, LOOK_INTO_THE_BATCH, METHODS, Net, Training, over_methods, parts_of, same
from torch import nn

import optimizers
from optimizers.core import passes as batch_norm

CURE = r"gc.freeze\(\) hides .*model=model for the optimizer, or step\(optimizers.BatchClosure"


@pytest.fixture
def hidden():
    """Everything alive is hidden from the garbage collector; what earlier tests have compiled is forgotten."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()

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
    if optimizers.describe(method).reads_layers:
        if method in CLOSURE_FREE:
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
    passes = 2 * parts_of(training)
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
@pytest.mark.parametrize("method", [method for method in METHODS if expected(method).compiles_step])
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
    trainings = [make(optimizers.SharpnessAware) for _ in range(2)]
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

"""Which layers a parameter and a running statistic belong to: seen whatever hides them, or refused."""

import copy
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
    outside, instances = nn.BatchNorm1d(3, affine=False), nn.InstanceNorm1d(1, momentum=0.5, track_running_stats=True)
    head = training.model.head.forward

    def forward(x):
        instances(torch.ones(2, 1, 4))
        return outside(head(x))

    training.model.head.forward = forward
    step(training)
    step(training)
    passes = 2 * parts_of(training)
    assert int(training.model.body[5].num_batches_tracked) == passes
    assert int(outside.num_batches_tracked) == passes
    assert float(instances.running_mean) == 1 - 0.5**passes


KINDS = {
    name: kind
    for name, kind in vars(nn).items()
    if isinstance(kind, type) and issubclass(kind, nn.modules.batchnorm._NormBase)
}


def normalised(kind):
    """A network with this layer in the middle, and a batch for it."""
    dimensions = 2 if "2d" in kind.__name__ else 3 if "3d" in kind.__name__ else 1
    width = () if issubclass(kind, nn.modules.lazy.LazyModuleMixin) else (4,)
    layer = kind(*width, track_running_stats=True)
    if kind is nn.SyncBatchNorm:
        layer.forward = nn.BatchNorm1d.forward.__get__(layer)  # no group of processes here
        layer._check_input_dim = lambda _: None
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    shape = 6, 2, *[4] * dimensions
    model = nn.Sequential(conv(2, 4, 2), layer, nn.Flatten(), nn.Linear(4 * 3**dimensions, 3))
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 1
    return model, inputs


@pytest.mark.parametrize("mode", ["eager", "compiled", "frozen_batch_norm"])
@pytest.mark.parametrize("kind", KINDS)
def test_running_statistics_are_those_of_the_first_pass_alone(kind, mode):
    """Bit for bit, over every layer of torch.nn that holds any; in eval mode they are used, and none is written."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, inputs = normalised(KINDS[kind])
    model(inputs)
    layer, once = model[1], copy.deepcopy(model)
    if kind == "SyncBatchNorm":
        once[1].forward = nn.BatchNorm1d.forward.__get__(once[1])
        once[1]._check_input_dim = lambda _: None
    once(inputs)
    if mode == "frozen_batch_norm":
        expected_in_eval = once.eval()(inputs)
        model(inputs)
        with optimizers.frozen_batch_norm(model), optimizers.frozen_batch_norm(layer):
            model(inputs * 3)
            torch.testing.assert_close(model.eval()(inputs), expected_in_eval, rtol=0, atol=0)
            model.train()
            model(inputs * 3)
            assert set(model.state_dict()) == set(once.state_dict())
    else:
        optimizer = optimizers.SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.5)
        network = torch.compile(model, backend="eager") if mode == "compiled" else model
        modes = []

        def closure():
            optimizer.zero_grad()
            loss = network(inputs).square().mean()
            loss.backward()
            modes.append(float(loss.detach()))
            return loss

        optimizer.step(closure)
        assert modes[0] != modes[1]
    for name, buffer in once.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
    before = layer.running_mean.clone()
    model.train()(inputs * 3)
    assert not torch.equal(layer.running_mean, before), "what was frozen counts again"
    assert not set(vars(nn.modules.instancenorm._InstanceNorm)) & {"running_mean", "running_var"}


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

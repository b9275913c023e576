"""The optimizers among what else a training has: schedulers, clipping, accumulation, sparse and tied weights, compilation."""

import inspect

import pytest
import torch
from expectations import expected
from optimizer_training import (
    CLOSURE_FREE,
    LOOK_INTO_THE_BATCH,
    METHODS,
    TWO_GRADIENTS,
    Smooth,
    Training,
    create,
    over_methods,
    parts_of,
    same,
    with_radius,
)
from torch import nn
from torch.optim import lr_scheduler

import optimizers

BY_LAYERS = [method for method in METHODS if optimizers.describe(method).moves == "normalisation layers"]
SCHEDULERS = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [2, 4]},
    "ConstantLR": {},
    "LinearLR": {},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {},
    "CosineAnnealingLR": {"T_max": 5},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "LambdaLR": {"lr_lambda": lambda t: 0.9**t},
    "MultiplicativeLR": {"lr_lambda": lambda t: 0.9},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 10},
    "ReduceLROnPlateau": {"patience": 0},
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@over_methods
def test_torch_schedulers_work_on_the_wrapper_as_on_the_base(method, scheduler):
    """With ρ = 0 the same weights as the base alone under the same scheduler; the same learning rates anyway."""
    rates, weights = [], []
    for training in (Training(method, net=Smooth, **with_radius(method, 0.0)), Training(None, net=Smooth)):
        follow = getattr(lr_scheduler, scheduler)(training.optimizer, **SCHEDULERS[scheduler])
        rates.append([])
        for _ in range(6):
            training.step()
            follow.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
            rates[-1].append((training.base.param_groups[0]["lr"], training.base.param_groups[0]["momentum"]))
        weights.append(training.weights())
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1
    assert same(*weights)


def test_every_scheduler_of_torch_is_tried():
    known = {
        name for name, thing in vars(lr_scheduler).items()
        if inspect.isclass(thing) and issubclass(thing, lr_scheduler.LRScheduler) and not name.startswith("_")
    }  # fmt: skip
    assert known - set(SCHEDULERS) <= {"LRScheduler", "SequentialLR", "ChainedScheduler", "SWALR"}  # made of others


@over_methods
def test_step_hooks_fire_once_and_clip_what_the_base_gets(method):
    """Clipping after the last pass: a pre-step hook on the base sees the descent direction of every method."""
    training, calls, norms = Training(method, net=Smooth), [], []
    training.optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    training.optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def clip(optimizer, args, kwargs):
        nn.utils.clip_grad_norm_(training.model.parameters(), 1e-3)
        norms.append(float(nn.utils.get_total_norm([p.grad for p in training.model.parameters()])))

    training.base.register_step_pre_hook(clip)
    training.run(6)
    assert calls == ["before", "after"] * 6
    assert norms == pytest.approx([1e-3] * 6, rel=1e-2)


@over_methods
def test_accumulated_gradients_are_the_large_batch(method):
    """Four micro-batches inside the closure: the mean gradient of the batch, so the same step.

    A method that looks into the batch must be given the whole of it, and says so.
    """
    whole, parts = Training(method, net=Smooth), Training(method, net=Smooth)

    def accumulate():
        batch = parts.closure()
        parts.model.zero_grad()
        losses = [batch.loss_fn(parts.model(p.inputs), p.targets) / 4 for p in batch.split(4)]
        for loss in losses:
            loss.backward()
        return sum(losses).detach()

    if method in LOOK_INTO_THE_BATCH:
        before = parts.weights()
        with pytest.raises(TypeError, match=r"so a plain closure is not enough: call step\(optimizers.BatchClosure"):
            parts.optimizer.step(accumulate)
        assert same(parts.weights(), before)
        return
    for _ in range(5):
        whole.step()
        parts.optimizer.step(accumulate)
        parts.number += 1
    for left, right in zip(whole.weights(), parts.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@over_methods
def test_closure_free_accumulation_over_backward_passes(method):
    """As every trainer does it; where a second gradient is needed, it could not be accumulated again, and is refused."""
    whole, parts = (Training(method, net=Smooth) for _ in range(2))
    for _ in range(5):
        batch = parts.closure()
        parts.optimizer.zero_grad()
        for part in batch.split(4):
            (batch.loss_fn(parts.model(part.inputs), part.targets) / 4).backward()
        if method in TWO_GRADIENTS:
            with pytest.raises(RuntimeError, match="which only a closure can compute"):
                parts.optimizer.step()
            continue
        whole.step(closure_free=True)
        parts.optimizer.step()
        parts.number += 1
    for left, right in zip(whole.weights(), parts.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


class Tied(nn.Module):
    """A language model in miniature: an embedding and an output layer that share one weight, or sparse gradients."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 6, sparse=sparse)
        self.middle = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
        self.output = nn.Linear(6, 12, bias=False)
        if not sparse:
            self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(self.middle(self.embedding(tokens)).tanh())


@pytest.mark.parametrize("sparse", [False, True])
@over_methods
def test_tied_and_sparse_parameters(method, sparse):
    """Clean between steps with lr = 0; sparse gradients take the same steps as dense ones."""
    finals = []
    for use_sparse in (False, True) if sparse else (False,):
        torch.manual_seed(0)
        model = Tied(sparse=sparse)
        model.embedding.sparse = use_sparse
        optimizer = create(
            method,
            torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9),
            **expected(method).sparse_with,
        )
        before = [p.detach().clone() for p in model.parameters()]
        for step in range(8):
            if step == 3:
                assert same([p.detach() for p in model.parameters()], before)
                optimizer.param_groups[0]["lr"] = 0.1
            tokens = torch.randint(0, 12, (10,), generator=torch.Generator().manual_seed(step))
            optimizer.step(optimizers.BatchClosure(model, nn.functional.cross_entropy, tokens, tokens.roll(1)))
        finals.append([p.detach().clone() for p in model.parameters()])
    for left, right in zip(finals[0], finals[-1], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    assert len(list(model.parameters())) == (6 if sparse else 5)


@pytest.mark.parametrize("method", BY_LAYERS)
def test_a_model_without_normalisation_layers_is_refused_by_methods_that_perturb_these(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = create(method, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
    closure = optimizers.BatchClosure(model, nn.functional.cross_entropy, x, y)
    if method in CLOSURE_FREE:
        optimizer.step(closure)  # there is no momentum to climb along yet
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"is_normalisation holds for none of the 4 parameters.* does the model have"):
        optimizer.step(closure)
    assert same([p.detach() for p in model.parameters()], before)


@pytest.mark.parametrize("how", ["module", "in place", "function"])
@over_methods
def test_compiled_models_train_the_same_with_batch_norm_frozen(method, how):
    """The three ways to compile; statistics count one batch a step, and nothing is compiled again after the first step."""
    torch._dynamo.reset()
    plain, compiled = Training(method), Training(method)
    for training in (plain, compiled):
        training.model.body[3].p = 0.0
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    forward = compiled.model
    if how == "module":
        forward = torch.compile(compiled.model, backend=backend)
    elif how == "in place":
        compiled.model.compile(backend=backend)
    else:
        forward = torch.compile(lambda x: compiled.model(x), backend=backend)
    counts = []
    for _ in range(4):
        plain.step()
        batch = compiled.closure()

        def closure(batch=batch):
            compiled.optimizer.zero_grad()
            loss = batch.loss_fn(forward(batch.inputs), batch.targets)
            loss.backward()
            return loss

        if method not in LOOK_INTO_THE_BATCH:
            compiled.optimizer.step(closure)
        elif how != "function":
            compiled.optimizer.step(optimizers.BatchClosure(forward, batch.loss_fn, batch.inputs, batch.targets))
        else:  # a function has no parameters to zero
            with pytest.raises(TypeError, match="a plain closure is not enough"):
                compiled.optimizer.step(closure)
            return
        compiled.number += 1
        counts.append(len(graphs))
    assert graphs
    assert counts[0] == counts[-1]
    assert int(compiled.model.body[1].num_batches_tracked) == 4 * parts_of(compiled)
    for left, right in zip(compiled.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@over_methods
def test_autocast_to_bfloat16_trains(method):
    # the radii of momentum methods are for larger networks than this
    training = Training(method, net=Smooth, **({"rho": 0.1} if optimizers.describe(method).negative_rho else {}))
    plain = training.model.forward

    def forward(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain(x).float()

    training.model.forward = forward
    losses = [float(training.optimizer.step(training.closure())) for _ in range(40)]  # one batch, again and again
    assert losses[-1] < 0.7 * losses[0]


@over_methods
def test_new_layers_are_frozen_too(method):
    """Layers that were not there at the first step are looked up again when their parameters are added."""
    training = Training(method).run(2)
    extra = nn.BatchNorm1d(3)
    training.optimizer.add_param_group({"params": list(extra.parameters())})
    head = training.model.head
    training.model.head = nn.Sequential(head, extra)
    training.run(3)
    assert int(extra.num_batches_tracked) == 3 * parts_of(training)

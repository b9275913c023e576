"""The optimizers among what else a training has: schedulers, clipping, accumulation, sparse and tied weights, compilation."""

import inspect

import pytest
import torch
from optimizer_training import CLOSURE_FREE, TWO_GRADIENTS, Net, Smooth, Training, create, over_methods, same
from torch import nn
from torch.optim import lr_scheduler

import optimizers

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
@pytest.mark.parametrize("method", ["sam", "msam"])
def test_torch_schedulers_work_on_the_wrapper_as_on_the_base(method, scheduler):
    """With ρ = 0 the same weights as the base alone under the same scheduler; the same learning rates anyway."""
    rates, weights = [], []
    for training in (Training(method, net=Smooth, rho=0.0), Training(None, net=Smooth)):
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
    """Four micro-batches inside the closure: the mean gradient of the batch, so the same step."""
    if method in ("esam", "m_sam", "second_order_sam"):
        pytest.skip("takes a BatchClosure of the whole batch (see test_methods_that_look_into_the_batch_ask_for_it)")
    whole, parts = Training(method, net=Smooth), Training(method, net=Smooth)

    def accumulate():
        batch = parts.closure()
        parts.model.zero_grad()
        losses = [batch.loss_fn(parts.model(p.inputs), p.targets) / 4 for p in batch.split(4)]
        for loss in losses:
            loss.backward()
        return sum(losses).detach()

    for _ in range(5):
        whole.step()
        parts.optimizer.step(accumulate)
        parts.number += 1
    for left, right in zip(whole.weights(), parts.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", CLOSURE_FREE)
def test_closure_free_accumulation_over_backward_passes(method):
    whole, parts = (Training(method, net=Smooth) for _ in range(2))
    whole.run(5, closure_free=True)
    for _ in range(5):
        batch = parts.closure()
        parts.optimizer.zero_grad()
        for part in batch.split(4):
            (batch.loss_fn(parts.model(part.inputs), part.targets) / 4).backward()
        parts.optimizer.step()
        parts.number += 1
    for left, right in zip(whole.weights(), parts.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


class Tied(nn.Module):
    """A language model in miniature: an embedding and an output layer that share one weight, with sparse gradients or not."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 6, sparse=sparse)
        self.middle = nn.Linear(6, 6)
        self.output = nn.Linear(6, 12, bias=False)
        if not sparse:
            self.output.weight = self.embedding.weight

    def forward(self, tokens):
        return self.output(self.middle(self.embedding(tokens)).tanh())


@pytest.mark.parametrize("sparse", [False, True])
@over_methods
def test_tied_and_sparse_parameters(method, sparse):
    """Clean between steps with lr = 0; sparse gradients take the same steps as dense ones."""
    if sparse and method == "second_order_sam":
        pytest.skip("torch has no second derivative of a sparse embedding")
    finals = []
    for use_sparse in (False, True) if sparse else (False,):
        torch.manual_seed(0)
        model = Tied(sparse=sparse)
        model.embedding.sparse = use_sparse
        optimizer = create(
            method,
            torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9),
            **({"but": True} if method == "sam_on" else {}),
        )
        if method == "msam_on":
            return  # has no normalisation layer to perturb
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
    assert len(list(model.parameters())) == (4 if sparse else 3)


@pytest.mark.parametrize("how", ["module", "in place", "function"])
@pytest.mark.parametrize("method", ["sam", "msam"])
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

        compiled.optimizer.step(closure)
        compiled.number += 1
        counts.append(len(graphs))
    assert graphs
    assert counts[0] == counts[-1]
    assert int(compiled.model.body[1].num_batches_tracked) == 4
    for left, right in zip(compiled.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", TWO_GRADIENTS)
def test_autocast_to_bfloat16_trains(method):
    training = Training(method, net=Smooth)
    plain = training.model.forward

    def forward(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain(x).float()

    training.model.forward = forward
    losses = [float(training.optimizer.step(training.closure())) for _ in range(40)]  # one batch, again and again
    assert losses[-1] < 0.7 * losses[0]


def test_new_layers_are_frozen_too():
    """Layers that were not there at the first step are looked up again when their parameters are added."""
    training = Training("sam").run(2)
    extra = nn.BatchNorm1d(3)
    training.optimizer.add_param_group({"params": list(extra.parameters())})
    head = training.model.head
    training.model.head = nn.Sequential(head, extra)
    training.run(3)
    assert int(extra.num_batches_tracked) == 3
    assert isinstance(training.model, Net)

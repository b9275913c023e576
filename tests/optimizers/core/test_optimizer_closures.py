"""What a closure leaves is what one pass computed, whatever else lies in `.grad`; accumulation is the large batch."""

import pytest
import torch
from optimizer_training import LOOK_INTO_THE_BATCH, METHODS, PERTURBING, Smooth, Training, over_methods, same
from torch import nn

import optimizers

PLAIN_CLOSURES = [method for method in METHODS if method not in LOOK_INTO_THE_BATCH]
TREATMENTS = {
    "nothing": lambda training: None,
    "clipped in place": lambda training: nn.utils.clip_grad_norm_(training.model.parameters(), 1e-3),
    "clipped by value": lambda training: nn.utils.clip_grad_value_(training.model.parameters(), 1e-3),
    "scaled in place": lambda training: [p.grad.mul_(2.0) for p in training.model.parameters()],
    "replaced": lambda training: [setattr(p, "grad", p.grad * 0.5) for p in training.model.parameters()],
}
ZEROING = {
    "to none": lambda training: training.optimizer.zero_grad(),
    "in place": lambda training: training.optimizer.zero_grad(set_to_none=False),
    "the model's": lambda training: training.model.zero_grad(),
    "the model's in place": lambda training: training.model.zero_grad(set_to_none=False),
    "by hand": lambda training: [p.grad.zero_() for p in training.model.parameters() if p.grad is not None],
}


class Own(optimizers.BatchClosure):
    """A user's closure of a batch: zeroes as told, and does something to the gradients afterwards."""

    zero, after, create_graph = staticmethod(lambda: None), staticmethod(lambda: None), False

    def __call__(self):
        self.zero()
        outputs, loss = self.evaluate()
        self.outputs = outputs.detach()
        loss.backward(create_graph=self.create_graph)
        self.after()
        return loss.detach()


def own(training, zero=lambda _: None, after=lambda _: None, *, create_graph=False):
    batch = training.closure()
    closure = Own(batch.model, batch.loss_fn, batch.inputs, batch.targets)
    closure.zero, closure.after, closure.create_graph = lambda: zero(training), lambda: after(training), create_graph
    return closure


@over_methods
def test_a_closure_that_adds_to_gradients_from_elsewhere_is_refused(method):
    """Whatever is done to them in place; but for the base alone, whose weights are where they were."""
    training = Training(method, net=Smooth).run(3)
    for treatment in TREATMENTS.values():
        training.closure()()
        before = training.weights()
        closure = own(training, after=treatment)
        if method not in PERTURBING:
            training.optimizer.step(closure)
            continue
        with pytest.raises(RuntimeError, match=r"expected a closure that zeroes .*accumulate micro-batches inside it"):
            training.optimizer.step(closure)
        assert same(training.weights(), before)
    training.run(1)
    assert not same(training.weights(), before)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_a_closure_that_adds_out_of_place_is_refused():
    training = Training(optimizers.SharpnessAware, net=Smooth).run(2)
    with pytest.raises(RuntimeError, match="expected a closure that zeroes"):
        training.optimizer.step(own(training, create_graph=True))


@over_methods
def test_every_way_to_zero_is_as_good(method):
    """After gradients from elsewhere, with clipping on every other step and a branch that comes and goes."""
    finals = []
    for zero in ZEROING.values():
        training = Training(method, net=Smooth)
        for step in range(3):
            training.model.head.bias.requires_grad_(step != 1)
            training.closure()()
            after = TREATMENTS["nothing" if step % 2 else "clipped in place"]
            training.optimizer.step(own(training, zero, after))
            training.number += 1
        finals.append(training.weights())
    assert all(same(finals[0], final) for final in finals[1:])


@pytest.mark.parametrize("last", [True, False])
@over_methods
def test_gradients_gathered_by_a_trainer_are_taken_again(method, last):
    """Three micro-batches outside, the last inside or outside; `again` computes all four."""
    whole, parts = Training(method, net=Smooth), Training(method, net=Smooth)
    for _ in range(5):
        pieces = parts.closure().split(4)

        def add(some):
            losses = [p.loss_fn(p.model(p.inputs), p.targets) / 4 for p in some]
            for loss in losses:
                loss.backward()
            return sum(losses).detach()

        def again(pieces=pieces, add=add):
            parts.optimizer.zero_grad()
            return add(pieces)

        parts.model.zero_grad()
        add(pieces[:3] if last else pieces)
        closure = (lambda pieces=pieces, add=add: add(pieces[3:])) if last else None
        if method in LOOK_INTO_THE_BATCH:
            with pytest.raises(TypeError, match="a plain closure is not enough"):
                parts.optimizer.step(closure, again=again)
            return
        whole.step()
        parts.optimizer.step(closure, again=again)
        parts.number += 1
    for left, right in zip(whole.weights(), parts.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@over_methods
def test_a_batch_taken_in_parts_is_the_same_step(method):
    whole, parts = (Training(method, net=Smooth, dtype=torch.float64) for _ in range(2))
    for _ in range(5):
        whole.step()
        batch, rows = parts.closure(), []
        hook = parts.model.register_forward_pre_hook(lambda _, x, rows=rows: rows.append(len(x[0])))
        at_once = optimizers.BatchClosure(batch.model, batch.loss_fn, batch.inputs, batch.targets, at_once=5)
        parts.optimizer.step(at_once)
        hook.remove()
        assert max(rows) == 5
        assert parts.optimizer.m or len(at_once.outputs) == 16
        parts.number += 1
    for left, right in zip(whole.weights(), parts.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("where", ["step", "closure", "both"])
@over_methods
def test_a_batch_closure_scales_its_loss(method, where):
    plain, training = Training(method, net=Smooth).run(6), Training(method, net=Smooth)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for _ in range(6):
        batch = training.closure()
        batch.scaler = None if where == "step" else scaler
        training.optimizer.step(batch, **({} if where == "closure" else {"scaler": scaler}))
        scaler.update()
        training.number += 1
    for left, right in zip(training.weights(), plain.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@over_methods
def test_a_scaler_that_scales_nothing_is_refused(method):
    training = Training(method, net=Smooth).run(2)
    before, scaler = training.weights(), torch.amp.GradScaler("cpu")
    with pytest.raises(RuntimeError, match=r"expected a closure that calls scaler.scale\(loss\).backward\(\)"):
        training.optimizer.step(own(training, ZEROING["to none"]), scaler=scaler)
    assert same(training.weights(), before)
    batch = training.closure()
    batch.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match="expected one scaler"):
        training.optimizer.step(batch, scaler=scaler)


@pytest.mark.parametrize("where", ["closure", "around the step"])
@over_methods
def test_autocast_is_that_of_the_pass(method, where):
    """Around a whole step too: weights that autocast has converted at w are not those at w + ε."""
    expected, training = Training(method, net=Smooth), Training(method, net=Smooth)
    forward = expected.model.forward

    def in_bfloat16(function):
        def convert(*values):
            with torch.autocast("cpu", torch.bfloat16):
                return function(*values)

        return convert

    expected.model.forward = in_bfloat16(forward)
    for _ in range(5):
        batch = training.closure()
        if where == "closure":
            batch.autocast = torch.autocast("cpu", torch.bfloat16)
            training.optimizer.step(batch)
        else:
            with torch.autocast("cpu", torch.bfloat16):
                training.optimizer.step(batch)
        training.number += 1
        batch = expected.closure()
        batch.loss_fn = in_bfloat16(batch.loss_fn)
        expected.optimizer.step(batch)
        expected.number += 1
    for left, right in zip(training.weights(), expected.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


class Tempered(nn.Module):
    """A loss that learns its temperature."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(outputs * self.temperature, targets)


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("method", PLAIN_CLOSURES)
def test_the_gradient_of_a_learnable_loss_does_not_add_up(method, as_function):
    finals = []
    for ours in (True, False):
        training, loss = Training(method, net=Smooth), Tempered()
        training.optimizer.add_param_group({"params": [loss.temperature]})
        for _ in range(5):
            batch = training.closure()
            if ours:
                loss_fn = (lambda *pair, loss=loss: loss(*pair)) if as_function else loss
                training.optimizer.step(optimizers.BatchClosure(batch.model, loss_fn, batch.inputs, batch.targets))
            else:
                batch.loss_fn = loss
                closure = Own(batch.model, loss, batch.inputs, batch.targets)
                closure.zero = training.optimizer.zero_grad
                training.optimizer.step(closure)
            training.number += 1
        finals.append([*training.weights(), loss.temperature.detach().clone()])
    assert same(*finals)


class Named(torch.nn.Module):
    """Takes two tensors by name and returns a dict, as models of language do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor | None]:
        return {"loss": None, "logits": self.layer(x) + shift}


def test_a_batch_of_any_form_is_weighed_by_what_its_mean_counts() -> None:
    """Inputs by name, a dict as output, targets that are ignored: the parts add up to the batch for every use of them."""
    model, random = Named().double(), torch.Generator().manual_seed(0)
    x = torch.randn(10, 3, dtype=torch.float64, generator=random)
    inputs = {"x": x, "shift": torch.randn(10, 2, dtype=torch.float64, generator=random)}
    targets = torch.tensor([0, 1, -100, -100, -100, 1, -100, 0, 1, 1])
    loss = torch.nn.functional.cross_entropy

    def mean(outputs, targets):
        total = loss(outputs["logits"], targets, reduction="sum")
        return total / (targets != -100).sum().clamp(min=1)

    def gradients() -> torch.Tensor:
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    expected = loss(model(**inputs)["logits"], targets)
    model.zero_grad()
    expected.backward()
    gradient, parameters = gradients(), list(model.parameters())
    vectors = [torch.ones_like(parameter) for parameter in parameters]
    products = []
    for at_once in (None, 1, 3):
        batch = optimizers.BatchClosure(
            model, mean, inputs, targets, count=lambda y: (y != -100).sum(), at_once=at_once
        )
        torch.testing.assert_close(batch(), expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(gradients(), gradient, rtol=0, atol=1e-14)
        each = batch.losses(batch.outputs)
        torch.testing.assert_close(each, loss(batch.outputs["logits"], targets, reduction="none"))
        torch.testing.assert_close(batch.losses_now(), each)
        products.append(torch.cat([p.flatten() for p in batch.hessian_product(parameters, vectors)]))
    torch.testing.assert_close(products[1], products[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(products[2], products[0], rtol=0, atol=1e-14)

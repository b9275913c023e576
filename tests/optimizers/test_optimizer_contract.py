"""What every registered method guarantees, over every base: one law, all variants, none exempt."""

import copy
import pickle

import pytest
import torch
from optimizer_training import (
    BASES,
    CLOSURE_FREE,
    METHODS,
    TWO_GRADIENTS,
    Net,
    Smooth,
    Training,
    create,
    over_all,
    over_methods,
    same,
    with_radius,
)
from torch import nn

import optimizers

CALLS = {"plain": 1, "sam": 2, "msam": 1}


# 1. between steps the parameters are the clean weights, bit for bit


@over_all
def test_steps_of_length_zero_change_nothing(method, base):
    training = Training(method, base, options={"lr": 0.0, "weight_decay": 0.0})
    before = training.weights()
    for step in range(6):
        training.step()
        if method != "plain":
            training.optimizer.param_groups[0]["rho"] *= 1 + step / 10
        assert same(training.weights(), before)


@over_methods
def test_500_steps_in_bfloat16_change_nothing(method):
    training = Training(method, net=Smooth, dtype=torch.bfloat16, options={"lr": 0.0, "weight_decay": 0.0})
    before = training.weights()
    training.run(500)
    assert same(training.weights(), before)


@over_methods
def test_an_exception_in_any_pass_leaves_clean_weights_and_a_working_optimizer(method):
    for failing in range(1, 5):
        training = Training(method).run(6)  # momenta, averages and reuse are under way
        before, buffers = training.weights(), {k: v.clone() for k, v in training.model.named_buffers()}
        calls = 0

        def stop(*_):
            nonlocal calls
            calls += 1
            if calls == failing:  # noqa: B023
                raise KeyboardInterrupt

        handle = training.model.head.register_forward_pre_hook(stop)
        try:
            training.step()
        except KeyboardInterrupt:
            assert same(training.weights(), before)
            if failing > 1 and method != "m_sam":  # statistics stand as the first pass left them
                first = {k: v.clone() for k, v in training.model.named_buffers()}
                training.model.body[1].train()
                assert int(first["body.1.num_batches_tracked"]) == int(buffers["body.1.num_batches_tracked"]) + 1
        handle.remove()
        assert all(layer.track_running_stats for layer in (training.model.body[1], training.model.body[5]))
        training.run(2)
        assert all(w.isfinite().all() for w in training.weights())


@over_methods
def test_gradients_that_come_and_go_leak_nothing(method):
    """`None` in either pass, on another parameter each time; with lr = 0 the weights stay."""
    training = Training(method, net=Smooth, options={"lr": 0.0, "weight_decay": 0.0})
    before, calls = training.weights(), 0
    original = training.model.head.forward

    def forward(x):
        nonlocal calls
        calls += 1
        return x[:, :3] * 2 if calls % 3 == 0 else original(x)

    training.model.head.forward = forward
    training.run(12)
    assert same(training.weights(), before)


@over_methods
def test_parameters_may_be_frozen_and_thawed(method):
    training = Training(method, net=Smooth)
    training.run(3)
    for parameter in training.model.head.parameters():
        parameter.requires_grad = False
        parameter.grad = None
    frozen = [p.detach().clone() for p in training.model.head.parameters()]
    training.run(3)
    assert same(frozen, [p.detach() for p in training.model.head.parameters()])
    for parameter in training.model.head.parameters():
        parameter.requires_grad = True
    training.run(3)
    assert not same(frozen, [p.detach() for p in training.model.head.parameters()])


# 2. step(closure) as torch has it; closure-free where one gradient is enough


@over_all
def test_returns_the_first_loss_and_counts_gradients(method, base):
    training = Training(method, base)
    torch_state = torch.get_rng_state()
    expected = training.closure()()
    training.model.load_state_dict(Training(method, base).model.state_dict())
    torch.set_rng_state(torch_state)
    loss = training.optimizer.step(training.closure())
    if method != "m_sam":  # there BatchNorm sees micro-batches
        assert float(loss) == float(expected)
    if method in CALLS:
        calls = 0

        def closure():
            nonlocal calls
            calls += 1
            return training.closure()()

        for _ in range(4):
            training.optimizer.step(closure)
        assert calls == 4 * CALLS[method]
        assert training.optimizer.gradient_evaluations == 5 * CALLS[method]


@pytest.mark.parametrize("method", CLOSURE_FREE)
@pytest.mark.parametrize("base", BASES)
def test_both_call_styles_take_the_same_steps(method, base):
    with_closure = Training(method, base).run(8)
    without = Training(method, base).run(8, closure_free=True)
    without.optimizer.eval()
    assert same(without.weights(), with_closure.weights())
    assert same(dict(without.model.named_buffers()), dict(with_closure.model.named_buffers()))
    assert without.optimizer.gradient_evaluations == with_closure.optimizer.gradient_evaluations == 8


@pytest.mark.parametrize("method", [m for m in CLOSURE_FREE if m != "plain"])
def test_eval_and_train_swap_sides_and_may_be_repeated(method):
    training = Training(method).run(4, closure_free=True)
    away, rho = training.weights(), training.optimizer.param_groups[0]["rho"]
    assert training.optimizer.state_dict()["sharpness_aware"]["loaded"] == "perturbed"
    training.optimizer.eval()
    training.optimizer.eval()
    clean = training.weights()
    assert training.optimizer.state_dict()["sharpness_aware"]["loaded"] == "clean"
    moved = torch.cat([(a - c).flatten() for a, c in zip(away, clean, strict=True)])
    assert float(moved.norm()) == pytest.approx(abs(rho), rel=1e-4)
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) before computing gradients"):
        training.step(closure_free=True)
    training.optimizer.train()
    training.optimizer.train()
    assert same(training.weights(), away)


@pytest.mark.parametrize("side", ["train", "eval"])
@pytest.mark.parametrize("method", [m for m in CLOSURE_FREE if m != "plain"])
def test_closure_free_training_resumes_on_either_side(method, side):
    whole, first = (Training(method).run(5, closure_free=True) for _ in range(2))
    getattr(first.optimizer, side)()
    saved = copy.deepcopy((first.model.state_dict(), first.optimizer.state_dict(), torch.get_rng_state()))
    second = Training(method, seed=1)
    second.model.load_state_dict(saved[0])
    second.optimizer.load_state_dict(saved[1])
    second.optimizer.train()
    second.number = 5
    torch.set_rng_state(saved[2])
    second.run(4, closure_free=True)
    torch.set_rng_state(saved[2])
    whole.run(4, closure_free=True)
    assert same(second.weights(), whole.weights())
    second.optimizer.eval()
    whole.optimizer.eval()
    assert same(second.weights(), whole.weights())


@pytest.mark.parametrize("method", TWO_GRADIENTS)
def test_methods_of_two_gradients_ask_for_a_closure(method):
    training = Training(method)
    training.closure()()
    with pytest.raises(RuntimeError, match="which only a closure can compute: call step\\(closure\\)"):
        training.optimizer.step()


@pytest.mark.parametrize("method", ["esam", "m_sam", "second_order_sam"])
def test_methods_that_look_into_the_batch_ask_for_it(method):
    training = Training(method)
    before = training.weights()
    with pytest.raises(TypeError, match=r"a plain closure is not enough: call step\(optimizers.BatchClosure"):
        training.optimizer.step(lambda: training.closure()())
    assert same(training.weights(), before)


@over_methods
def test_a_closure_that_accumulates_is_refused(method):
    training = Training(method, net=Smooth)
    training.closure()()

    def adds():
        loss = nn.functional.cross_entropy(training.model(torch.ones(4, 5)), torch.zeros(4, dtype=torch.long))
        loss.backward()
        return loss

    if method in CLOSURE_FREE:
        training.optimizer.step(adds)  # one pass: accumulating over calls is sound
    elif method in ("esam", "m_sam", "second_order_sam"):
        with pytest.raises(TypeError, match="plain closure"):
            training.optimizer.step(adds)
    else:
        with pytest.raises(RuntimeError, match="expected a closure that zeroes the gradients"):
            training.optimizer.step(adds)


# 3. shared parameter groups


@over_all
def test_groups_are_shared_by_identity(method, base):
    training = Training(method, base).run(2)
    optimizer = training.optimizer
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    extra = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.param_groups[1] is optimizer.base.param_groups[1]
    assert optimizer.param_groups[1]["rho"] == optimizer.defaults["rho"]
    optimizer.param_groups[0]["lr"] = 0.125
    assert optimizer.base.param_groups[0]["lr"] == 0.125
    optimizer.base.load_state_dict(copy.deepcopy(optimizer.base.state_dict()))  # behind the wrapper's back
    assert optimizer.param_groups is optimizer.base.param_groups


@over_methods
def test_a_group_added_in_flight_is_trained_and_perturbed(method):
    training = Training(method, net=Smooth)
    head = list(training.model.head.parameters())
    training.optimizer = create(method, BASES["sgd"](training.model.body.parameters()))
    training.run(3)
    training.optimizer.add_param_group({"params": head})
    before = [p.detach().clone() for p in head]
    training.run(4)
    assert not same(before, [p.detach() for p in head])
    if method not in ("plain", "sam_on", "msam_on", "esam"):
        assert all(e.norm() > 0 for e in training.optimizer.perturbation()[-2:])


@over_methods
def test_groups_have_radii_of_their_own(method):
    """ε is radius × unit: doubling one group's ρ doubles its part and leaves the other's."""
    if method in ("plain", "second_order_sam", "multistep_sam"):
        training = Training(method, net=Smooth)
        if method == "plain":
            assert not any(e.any() for e in training.optimizer.perturbation())
            return
        training.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "rho": 0.7})
        with pytest.raises(ValueError, match="expected one rho"):
            training.run(2)
        return
    training = Training(method, net=Smooth)
    body, head = list(training.model.body.parameters()), list(training.model.head.parameters())
    base = BASES["sgd"]([{"params": body}, {"params": head}])
    training.optimizer = create(method, base)
    training.run(3)
    before = training.optimizer.perturbation()
    training.optimizer.param_groups[0]["rho"] *= 2
    after = training.optimizer.perturbation()
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        torch.testing.assert_close(new, old * (2 if index < len(body) else 1), rtol=1e-5, atol=1e-8)


# 4. the state dictionary is complete


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


@over_methods
def test_deepcopy_and_pickle_carry_everything(method):
    training = Training(method).run(7)
    for copied in (copy.deepcopy(training), pickle.loads(pickle.dumps(training))):
        state = torch.get_rng_state()
        copied.run(3)
        torch.set_rng_state(state)
        original = copy.deepcopy(training).run(3)
        assert same(copied.weights(), original.weights())
        assert not same(copied.weights(), training.weights())


def test_the_state_of_another_method_or_of_the_base_is_refused():
    sam, msam = Training("sam").run(2), Training("msam").run(2)
    before = sam.weights()
    with pytest.raises(ValueError, match="expected the state of Steepest × Euclidean × Always, got that of Momentum"):
        sam.optimizer.load_state_dict(msam.optimizer.state_dict())
    with pytest.raises(ValueError, match=r"the state of a base optimizer loads into \.base"):
        sam.optimizer.load_state_dict(sam.base.state_dict())
    sam.optimizer.base.load_state_dict(msam.optimizer.state_dict())  # the base's part alone may be taken over
    assert same(sam.weights(), before)


# 5. no radius, no difference


@over_all
def test_rho_zero_is_the_base_optimizer(method, base):
    ours = Training(method, base, **with_radius(method, 0.0)).run(6)
    drawn = torch.rand(3)
    plain = Training(None, base).run(6)
    if method == "m_sam":  # one pass over micro-batches: BatchNorm sees each of them
        ours = Training(method, base, net=Smooth, m=16, rho=0.0).run(6)
        plain = Training(None, base, net=Smooth).run(6)
    else:
        assert same(drawn, torch.rand(3))  # dropout has drawn as often
    assert same(ours.model.state_dict(), plain.model.state_dict())


# 6. lengths, zeros and infinities


@over_all
def test_perturbation_has_length_rho_and_asking_changes_nothing(method, base):
    options = {"esam": {"beta": 1.0}, "sam_on": {}}.get(method, {})
    training = Training(method, base, **options).run(3)
    state, before = copy.deepcopy(training.optimizer.state_dict()), training.weights()
    rho = abs(training.optimizer.param_groups[0]["rho"])
    epsilon = training.optimizer.perturbation()
    assert [e.shape for e in epsilon] == [p.shape for p in training.model.parameters()]
    length = torch.cat([e.flatten() for e in epsilon]).norm()
    if method == "asam":  # its ball is ‖T⁻¹ε‖ = ρ
        scaled = [
            e if "bias" in n else e / (p.detach().abs() + 0.01)
            for e, (n, p) in zip(epsilon, training.model.named_parameters(), strict=True)
        ]
        length = torch.cat([e.flatten() for e in scaled]).norm()
    if method == "multistep_sam":  # the first of three strides
        length = length * 3
    torch.testing.assert_close(length, torch.tensor(rho), rtol=1e-5, atol=0)
    assert same(training.optimizer.state_dict(), state)
    assert same(training.weights(), before)


@over_methods
def test_a_gradient_of_zero_perturbs_nothing(method):
    training = Training(method, net=Smooth, options={"weight_decay": 0.0})
    if method == "random":
        return  # knows no gradient: the one direction that is never zero
    for parameter in training.model.parameters():
        parameter.register_hook(torch.zeros_like)
    before = training.weights()
    training.run(4)
    assert not any(e.any() for e in training.optimizer.perturbation())
    assert same(training.weights(), before)


def poison(training, *, at, value):
    """Put one inf or NaN into the head's weight gradient of the `at`-th backward pass from now."""
    calls = 0

    def hook(gradient):
        nonlocal calls
        calls += 1
        if calls != at:
            return None
        gradient = gradient.clone()
        gradient[0, 0] = value
        return gradient

    return training.model.head.weight.register_hook(hook)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("at", [1, 2])
@over_methods
def test_a_gradient_that_is_not_finite_does_not_spread(method, at, value):
    """It reaches the one weight it belongs to, as with the base alone; a poisoned first pass of two not even that."""
    training = Training(method, net=Smooth, options={"momentum": 0.9}).run(6)
    evaluations = training.optimizer.gradient_evaluations
    handle = poison(training, at=at, value=value)
    training.step()
    handle.remove()
    passes = training.optimizer.gradient_evaluations - evaluations
    lost = sum(int((~w.isfinite()).sum()) for w in training.weights())
    assert lost <= 1
    if at == 1 and passes == 2 and method != "m_sam":
        assert lost == 0
        climbs_elsewhere = method in ("sam_on", "vasso")  # other parameters, or the average of before
        assert training.optimizer.skipped_ascents == (0 if climbs_elsewhere else 1)
    own = [v for state in training.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    if method != "s2sam":  # which keeps the gradient itself, and then skips the ascent
        assert all(v.isfinite().all() for v in own)


@over_methods
def test_the_scaler_skips_a_step_that_overflowed_and_goes_on(method):
    if method == "m_sam":
        pytest.skip("see test_scaled_gradients_take_the_same_steps: micro-batches are poisoned together")
    training = Training(method, net=Smooth).run(6)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    training.closure = scaled(training, scaler)
    for at in (1, 2):
        before = training.weights()
        evaluations = training.optimizer.gradient_evaluations
        handle = poison(training, at=at, value=float("inf"))
        training.step(scaler=scaler)
        scaler.update()
        handle.remove()
        last = training.optimizer.gradient_evaluations - evaluations
        if method not in ("second_order_sam", "multistep_sam") and at == last:
            assert same(training.weights(), before)
        assert all(w.isfinite().all() for w in training.weights())
    training.step(scaler=scaler)
    scaler.update()
    assert all(w.isfinite().all() for w in training.weights())
    assert not same(training.weights(), before)


def scaled(training, scaler):
    """Closures whose backward pass starts from the scaled loss."""
    plain = training.closure

    def closure():
        batch = plain()
        loss_fn = batch.loss_fn

        class Scaled(optimizers.BatchClosure):
            def __call__(self):
                self.model.zero_grad()
                self.outputs = self.model(self.inputs)
                loss = loss_fn(self.outputs, self.targets)
                scaler.scale(loss).backward()
                self.outputs = self.outputs.detach()
                return loss.detach()

            def select(self, examples):
                return Scaled(self.model, loss_fn, self.inputs[examples], self.targets[examples])

            def split(self, size):
                parts = zip(self.inputs.split(size), self.targets.split(size), strict=True)
                return [Scaled(self.model, loss_fn, x, y) for x, y in parts]

        return Scaled(batch.model, loss_fn, batch.inputs, batch.targets)

    return closure


@over_methods
def test_scaled_gradients_take_the_same_steps(method):
    """A scale that is a power of two changes no bit of the gradients, so the scaler must not change the training."""
    plain = Training(method, net=Smooth).run(8)
    training = Training(method, net=Smooth)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    training.closure = scaled(training, scaler)
    for _ in range(8):
        training.step(scaler=scaler)
        scaler.update()
    for left, right in zip(training.weights(), plain.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", CLOSURE_FREE)
def test_the_scaler_drives_closure_free_steps(method):
    training = Training(method, net=Smooth).run(3, closure_free=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = training.weights()
    handle = poison(training, at=1, value=float("inf"))
    for finite in (False, True):
        training.model.zero_grad()
        batch = training.closure()
        scaler.scale(batch.loss_fn(batch.model(batch.inputs), batch.targets)).backward()
        scaler.step(training.optimizer)
        scaler.update()
        assert same(training.weights(), before) is not finite
    handle.remove()


# 9. batch normalisation


@over_methods
def test_running_statistics_come_from_the_first_pass_alone(method):
    training = Training(method, net=Net, options={"lr": 0.0, "weight_decay": 0.0})
    for module in training.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    training.run(4)
    tracked = training.model.body[1].num_batches_tracked
    if method == "m_sam":  # one micro-batch after the other, each with its statistics
        assert int(tracked) == 4
        return
    assert int(tracked) == 4
    if method in TWO_GRADIENTS:
        plain = Training(None, options={"lr": 0.0, "weight_decay": 0.0})
        plain.model.body[3].p = 0.0
        plain.run(4)
        assert same(dict(training.model.named_buffers()), dict(plain.model.named_buffers()))


def test_freezing_nests_and_restores():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.SyncBatchNorm(3), nn.BatchNorm1d(3, track_running_stats=False))
    with optimizers.frozen_batch_norm(model), optimizers.frozen_batch_norm(model):
        assert not any(layer.track_running_stats for layer in model)
    assert [layer.track_running_stats for layer in model] == [True, True, False]
    with pytest.raises(KeyError), optimizers.frozen_batch_norm(model):
        raise KeyError
    assert [layer.track_running_stats for layer in model] == [True, True, False]


def test_every_method_is_described():
    for method in METHODS:
        info = optimizers.describe(method)
        assert info.summary.endswith(".")
        assert info.cost
        assert info.reference
        assert "rho" in info.defaults or method == "plain"

"""What every registered method guarantees, over every base: one law, all variants, none exempt."""

import copy
import pickle

import pytest
import torch
from expectations import expected
from optimizer_training import (
    BASES,
    CLOSURE_FREE,
    LOOK_INTO_THE_BATCH,
    METHODS,
    PERTURBING,
    TWO_GRADIENTS,
    Net,
    Smooth,
    Training,
    create,
    over_all,
    over_methods,
    parts_of,
    same,
    with_radius,
)
from torch import nn

import optimizers

ASKS_FOR_A_CLOSURE = r"which only a closure can compute: call step\(closure\)"
ASKS_FOR_THE_BATCH = r"a plain closure is not enough: call step\(optimizers.BatchClosure"


# 1. between steps the parameters are the clean weights, bit for bit


@over_all
def test_steps_of_length_zero_change_nothing(method, base):
    training = Training(method, base, options={"lr": 0.0, "weight_decay": 0.0})
    before = training.weights()
    for step in range(6):
        training.step()
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
            # statistics stand as the first pass left them; those of each part, where parts climb for themselves
            begun = (failing + 1) // 2 if parts_of(training) > 1 else 1
            counted = dict(training.model.named_buffers())["body.1.num_batches_tracked"]
            assert int(counted) == int(buffers["body.1.num_batches_tracked"]) + begun
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
    epsilon = training.optimizer.perturbation()
    assert not any(e.any() for e in epsilon[-2:])
    assert expected(method).length(training, epsilon) == pytest.approx(radius(training), rel=1e-5)
    for parameter in training.model.head.parameters():
        parameter.requires_grad = True
    training.run(3)
    assert not same(frozen, [p.detach() for p in training.model.head.parameters()])


# 2. step(closure) as torch has it; closure-free where one gradient is enough


@over_all
def test_returns_the_first_loss_and_counts_gradients(method, base):
    training = Training(method, base)
    torch_state = torch.get_rng_state()
    if (number := parts_of(training)) > 1:  # their mean, each with its own batch normalisation; two passes of each draw
        split = training.closure().split(16 // number)
        first_loss = sum(first / number for first, _ in [(part(), part()) for part in split])
    else:
        first_loss = training.closure()()
    training.model.load_state_dict(Training(method, base).model.state_dict())
    torch.set_rng_state(torch_state)
    passes = []
    training.model.head.register_forward_pre_hook(lambda *_: passes.append(1))
    loss = training.optimizer.step(training.closure())
    assert float(loss) == float(first_loss)
    training.run(4)
    gradients = training.optimizer.gradient_evaluations
    costs = optimizers.describe(method)
    assert gradients in costs.gradients(5)
    passed = costs.forward_passes(5)
    assert len(passes) == (passed[0] if len(passed) == 1 else gradients)


@over_all
def test_both_call_styles_take_the_same_steps(method, base):
    """Without a closure, where one gradient is enough; otherwise the step is refused and nothing has happened."""
    if method in TWO_GRADIENTS:
        training = Training(method, base).run(2)
        before = training.weights()
        with pytest.raises(RuntimeError, match=ASKS_FOR_A_CLOSURE):
            training.step(closure_free=True)
        assert same(training.weights(), before)
        assert training.optimizer.gradient_evaluations == Training(method, base).run(2).optimizer.gradient_evaluations
        return
    with_closure = Training(method, base).run(8)
    without = Training(method, base).run(8, closure_free=True)
    without.optimizer.eval()
    assert same(without.weights(), with_closure.weights())
    assert same(dict(without.model.named_buffers()), dict(with_closure.model.named_buffers()))
    assert without.optimizer.gradient_evaluations == with_closure.optimizer.gradient_evaluations == 8


@over_methods
def test_eval_and_train_swap_sides_and_may_be_repeated(method):
    """Steps of two gradients end on the clean weights, and so do those of the base: then both sides are the same."""
    training = Training(method).run(4, closure_free=method in CLOSURE_FREE)
    stays = method in TWO_GRADIENTS or method not in PERTURBING
    away, rho = training.weights(), 0.0 if stays else training.optimizer.param_groups[0]["rho"]
    assert training.optimizer.state_dict()["sharpness_aware"]["loaded"] == ("clean" if stays else "perturbed")
    training.optimizer.eval()
    training.optimizer.eval()
    clean = training.weights()
    assert training.optimizer.state_dict()["sharpness_aware"]["loaded"] == "clean"
    moved = torch.cat([(a - c).flatten() for a, c in zip(away, clean, strict=True)])
    assert float(moved.norm()) == pytest.approx(abs(rho), rel=1e-4)
    reason = ASKS_FOR_A_CLOSURE if method in TWO_GRADIENTS else r"call optimizer.train\(\) before computing gradients"
    with pytest.raises(RuntimeError, match=reason):
        training.step(closure_free=True)
    assert same(training.weights(), clean)
    training.optimizer.train()
    training.optimizer.train()
    assert same(training.weights(), away)


@pytest.mark.parametrize("side", ["train", "eval"])
@over_methods
def test_training_resumes_on_either_side(method, side):
    """Without a closure where the method allows it, so that w + ε may be what is loaded and saved."""
    style = {"closure_free": method in CLOSURE_FREE}
    whole, first = (Training(method).run(5, **style) for _ in range(2))
    getattr(first.optimizer, side)()
    saved = copy.deepcopy((first.model.state_dict(), first.optimizer.state_dict(), torch.get_rng_state()))
    second = Training(method, seed=1)
    second.model.load_state_dict(saved[0])
    second.optimizer.load_state_dict(saved[1])
    second.optimizer.train()
    second.number = 5
    torch.set_rng_state(saved[2])
    second.run(4, **style)
    torch.set_rng_state(saved[2])
    whole.run(4, **style)
    assert same(second.weights(), whole.weights())
    second.optimizer.eval()
    whole.optimizer.eval()
    assert same(second.weights(), whole.weights())


@over_methods
def test_a_plain_closure_will_do_but_for_methods_that_look_into_the_batch(method):
    """These ask for a `BatchClosure` before anything has changed; the others train as with one, to the bit."""
    plain, batch = Training(method), Training(method)
    before, torch_state = plain.weights(), torch.get_rng_state()
    for _ in range(3):
        if method in LOOK_INTO_THE_BATCH:
            with pytest.raises(TypeError, match=ASKS_FOR_THE_BATCH):
                plain.optimizer.step(lambda: plain.closure()())
            assert plain.optimizer.gradient_evaluations == 0
        else:
            plain.optimizer.step(lambda: plain.closure()())
            plain.number += 1
    torch.set_rng_state(torch_state)
    assert same(plain.weights(), before if method in LOOK_INTO_THE_BATCH else batch.run(3).weights())


class Adding(optimizers.BatchClosure):
    """A closure of a batch, as a trainer might hand it over, that adds to the gradients there are."""

    def __call__(self):
        loss = self.loss_fn(self.model(self.inputs), self.targets)
        loss.backward()
        return loss.detach()

    def split(self, size):
        parts = zip(self.inputs.split(size), self.targets.split(size), strict=True)
        return [Adding(self.model, self.loss_fn, x, y) for x, y in parts]


@over_methods
def test_a_closure_that_accumulates_is_refused(method):
    training = Training(method, net=Smooth)
    training.closure()()
    before = training.weights()
    batch = training.closure()
    adds = Adding(batch.model, batch.loss_fn, batch.inputs, batch.targets)
    if method in CLOSURE_FREE:
        training.optimizer.step(adds)  # one pass, and the first step is at w, where the gradients are from
        assert not same(training.weights(), before)
    else:
        with pytest.raises(RuntimeError, match="expected a closure that zeroes the gradients"):
            training.optimizer.step(adds)
        assert same(training.weights(), before)


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
    moved = [False] * 6
    for _ in range(8):  # ESAM leaves out some tensors each time
        training.step()
        moved = [old or bool(e.any()) for old, e in zip(moved, training.optimizer.perturbation(), strict=True)]
    moves = {
        "nothing": [False] * 6,
        "normalisation layers": [False, False, True, True, False, False],
        "all": [True] * 6,
    }
    assert moved == moves[optimizers.describe(method).moves]


@over_methods
def test_groups_have_radii_of_their_own(method):
    """ε is radius × unit: doubling one group's ρ doubles its part and leaves the other's. A single ball refuses it."""
    training = Training(method, net=Smooth)
    if optimizers.describe(method).one_ball:
        training.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "rho": 0.7})
        before = training.weights()
        with pytest.raises(ValueError, match=r"have one ball: expected one rho, got \[0.05, 0.7\]"):
            training.step()
        assert same(training.weights(), before)
        return
    body, head = list(training.model.body.parameters()), list(training.model.head.parameters())
    base = BASES["sgd"]([{"params": body}, {"params": head}])
    training.optimizer = create(method, base)
    training.run(3)
    before = training.optimizer.perturbation()
    training.optimizer.param_groups[0]["rho"] *= 2
    after = training.optimizer.perturbation()
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        torch.testing.assert_close(new, old * (2 if index < len(body) else 1), rtol=1e-5, atol=1e-8)
    assert any(e.any() for e in after) is (method in PERTURBING)


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
    steepest = Training(optimizers.SharpnessAware).run(2)
    momentum = Training(optimizers.SharpnessAware, direction=optimizers.Momentum()).run(2)
    before = steepest.weights()
    with pytest.raises(ValueError, match="expected the state of Steepest × Euclidean × Always, got that of Momentum"):
        steepest.optimizer.load_state_dict(momentum.optimizer.state_dict())
    with pytest.raises(ValueError, match=r"the state of a base optimizer loads into \.base"):
        steepest.optimizer.load_state_dict(steepest.base.state_dict())
    steepest.optimizer.base.load_state_dict(momentum.optimizer.state_dict())  # the base's part alone may be taken over
    assert same(steepest.weights(), before)


# 5. no radius, no difference


@over_all
def test_rho_zero_is_the_base_optimizer(method, base):
    ours = Training(method, base, **with_radius(method, 0.0)).run(6)
    drawn = torch.rand(3)
    plain = Training(None, base).run(6)
    assert same(drawn, torch.rand(3))  # dropout has drawn as often
    assert same(ours.model.state_dict(), plain.model.state_dict())


# 6. lengths, zeros and infinities


def radius(training):
    return abs(training.optimizer.param_groups[0]["rho"])


@over_all
def test_perturbation_has_length_rho_and_asking_changes_nothing(method, base):
    training = Training(method, base).run(3)
    state, before = copy.deepcopy(training.optimizer.state_dict()), training.weights()
    epsilon = training.optimizer.perturbation()
    assert [e.shape for e in epsilon] == [p.shape for p in training.model.parameters()]
    assert expected(method).length(training, epsilon) == pytest.approx(radius(training), rel=1e-5)
    assert same(training.optimizer.state_dict(), state)
    assert same(training.weights(), before)


@over_methods
def test_a_gradient_of_zero_perturbs_nothing(method):
    training = Training(method, net=Smooth, options={"weight_decay": 0.0})
    for parameter in training.model.parameters():
        parameter.register_hook(torch.zeros_like)
    before = training.weights()
    training.run(4)
    length = torch.cat([e.flatten() for e in training.optimizer.perturbation()]).norm()
    # what knows no gradient is never zero; descending along zero it changes nothing all the same
    rho = training.optimizer.param_groups[0]["rho"]
    assert float(length) == pytest.approx(rho * expected(method).length_without_gradient)
    assert same(training.weights(), before)


def poison(training, *, at, value):
    """Put one inf or NaN into the head's weight gradient of the `at`-th backward pass from now; counts the passes."""
    passes = []

    def hook(gradient):
        passes.append(1)
        if len(passes) != at:
            return None
        gradient = gradient.clone()
        gradient[0, 0] = value
        return gradient

    return training.model.head.weight.register_hook(hook), passes


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
@over_methods
def test_a_gradient_that_is_not_finite_does_not_spread(method, at, value):
    """In the descent it reaches the one weight it belongs to, as with the base alone; in an ascent not even that."""
    training = Training(method, net=Smooth, options={"momentum": 0.9}).run(6)
    handle, passes = poison(training, at=at, value=value)
    training.step()
    handle.remove()
    lost = sum(int((~w.isfinite()).sum()) for w in training.weights())
    descends, skips = expected(method).descends(at, len(passes)), expected(method).skips
    assert lost == descends
    skipped = at <= len(passes) and not descends if skips is None else skips(at, len(passes))
    assert training.optimizer.skipped_ascents == skipped
    own = [v for state in training.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    assert all(v.isfinite().all() for v in own)
    for axis in training.optimizer.axes.values():
        counters = [v for v in axis.state_dict().values() if isinstance(v, float | torch.Tensor)]
        assert all(torch.as_tensor(v).isfinite().all() for v in counters)


@over_methods
def test_the_scaler_skips_a_step_that_overflowed_and_goes_on(method):
    """The base step is skipped where its own gradient overflowed; an ascent that overflowed is left out instead."""
    training = Training(method, net=Smooth).run(6)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    training.closure = scaled(training, scaler)
    for at in (1, 2, 3, 4):
        before, scale = training.weights(), scaler.get_scale()
        handle, passes = poison(training, at=at, value=float("inf"))
        training.step(scaler=scaler)
        scaler.update()
        handle.remove()
        overflowed = expected(method).descends(at, len(passes))
        assert same(training.weights(), before) is overflowed
        assert scaler.get_scale() == (scale / 2 if overflowed else scale)
        assert all(w.isfinite().all() for w in training.weights())
    before = training.weights()
    training.step(scaler=scaler)
    scaler.update()
    assert all(w.isfinite().all() for w in training.weights())
    assert not same(training.weights(), before)


def scaled(training, scaler):
    """Closures whose backward pass starts from the scaled loss, as users make them."""
    plain = training.closure

    def closure():
        batch = plain()
        return optimizers.BatchClosure(batch.model, batch.loss_fn, batch.inputs, batch.targets, scaler=scaler)

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


@over_methods
def test_the_scaler_drives_closure_free_steps(method):
    training = Training(method, net=Smooth).run(3, closure_free=method in CLOSURE_FREE)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = training.weights()
    handle, _ = poison(training, at=1, value=float("inf"))
    for finite in (False, True):
        training.model.zero_grad()
        batch = training.closure()
        scaler.scale(batch.loss_fn(batch.model(batch.inputs), batch.targets)).backward()
        if finite and method in TWO_GRADIENTS:
            with pytest.raises(RuntimeError, match=ASKS_FOR_A_CLOSURE):
                scaler.step(training.optimizer)
            finite = False
        else:
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
    reference = copy.deepcopy(training.model)
    for _ in range(4):
        # where the first pass is at w + ε, that is where statistics come from; each part has a first pass
        away = training.optimizer.perturbation() if method in CLOSURE_FREE else [0.0] * 100
        for parameter, clean, epsilon in zip(reference.parameters(), training.model.parameters(), away, strict=False):
            parameter.data = clean.detach() + epsilon
        batch = training.closure()
        for part in batch.split(16 // parts_of(training)):
            reference(part.inputs)
        training.step()
        for name, buffer in reference.named_buffers():
            torch.testing.assert_close(training.model.get_buffer(name), buffer, rtol=1e-6, atol=1e-7)
    assert int(training.model.body[1].num_batches_tracked) == 4 * parts_of(training)


def test_freezing_nests_and_restores():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.SyncBatchNorm(3), nn.BatchNorm1d(3, track_running_stats=False))
    with optimizers.frozen_batch_norm(model), optimizers.frozen_batch_norm(model):
        assert not any(layer.track_running_stats for layer in model)
    assert [layer.track_running_stats for layer in model] == [True, True, False]
    with pytest.raises(KeyError), optimizers.frozen_batch_norm(model):
        raise KeyError
    assert [layer.track_running_stats for layer in model] == [True, True, False]


def test_every_method_is_described():
    """In words that say no more than numbers do only where they are the numbers."""
    for method in METHODS:
        info = optimizers.describe(method)
        assert info.summary.endswith(".")
        assert info.cost
        assert info.reference
        assert ("rho" in info.defaults) is (info.moves != "nothing")
        if info.cost.isdigit():
            assert list(info.gradients(7)) == [7 * int(info.cost)]


@over_methods
def test_a_negative_radius_is_refused_or_said_to_mean_something(method):
    info, training = optimizers.describe(method), Training(method, net=Smooth)
    training.optimizer.param_groups[0]["rho"] = -0.1
    if info.negative_rho:
        assert all(weight.isfinite().all() for weight in training.run(3).weights())
        return
    with pytest.raises(ValueError, match=r"expected rho ≥ 0, got -0\.1"):
        training.step()

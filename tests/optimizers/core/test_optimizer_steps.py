"""What happens between and around steps: evaluations, copies of the weights, steps that fail, and states that do not fit."""

import copy
import functools

import pytest
import torch
from expectations import expected
from optimizer_training import CLOSURE_FREE, METHODS, PERTURBING, Net, Smooth, Training, over_methods, same
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim.swa_utils import AveragedModel

import optimizers

POLICIES = {
    "Always": optimizers.Always,
    "Between": lambda: optimizers.Between(start=3, stop=6),
    "EveryK": lambda: optimizers.EveryK(3),
    "Bernoulli": lambda: optimizers.Bernoulli(0.5, seed=1),
}
MOVED_BETWEEN_STEPS = [method for method in CLOSURE_FREE if method in PERTURBING]
over_policies = pytest.mark.parametrize("policy", POLICIES)


def training_with(method, policy):
    return Training(method, net=Smooth, **({"policy": POLICIES[policy]()} if policy else {}))


def evaluate(training):
    """The clean weights, seen by eval() and train(), twice each."""
    for side in ("eval", "eval", "train", "train"):
        getattr(training.optimizer, side)()


def look(training):
    with training.optimizer.clean(), training.optimizer.clean():
        pass


def save_and_load_evaluating(training):
    training.optimizer.eval()
    state = copy.deepcopy((training.model.state_dict(), training.optimizer.state_dict()))
    training.model.load_state_dict(state[0])
    training.optimizer.load_state_dict(state[1])
    training.optimizer.train()


def save_and_load_training(training):
    state = copy.deepcopy((training.model.state_dict(), training.optimizer.state_dict()))
    training.model.load_state_dict(state[0])
    training.optimizer.load_state_dict(state[1])


INTERRUPTIONS = [evaluate, look, save_and_load_evaluating, save_and_load_training]


@pytest.mark.parametrize("interrupt", INTERRUPTIONS)
@over_policies
@pytest.mark.parametrize("method", MOVED_BETWEEN_STEPS)
def test_looking_between_steps_changes_no_training(method, policy, interrupt):
    """The policy is asked once a step, whoever looks: the weights are those of the training that nobody looked at."""
    plain, looked_at, closures = (training_with(method, policy) for _ in range(3))
    for _ in range(8):
        plain.step(closure_free=True)
        away = plain.weights()
        looked_at.step(closure_free=True)
        interrupt(looked_at)
        assert same(looked_at.weights(), away)
        closures.step()
        with plain.optimizer.clean(), looked_at.optimizer.clean():
            assert same(plain.weights(), closures.weights())
            assert same(looked_at.weights(), closures.weights())
    assert same(looked_at.optimizer.state_dict(), plain.optimizer.state_dict())


@over_policies
@pytest.mark.parametrize("method", MOVED_BETWEEN_STEPS)
def test_call_styles_may_be_mixed(method, policy):
    """Also then one question a step."""
    mixed, asked = training_with(method, policy), []
    choice = mixed.optimizer.policy
    original = choice.decides
    choice.decides = lambda *given: asked.append(1) or original(*given)
    for number, closure_free in enumerate([True, False, True, True, False, False, True], start=1):
        mixed.step(closure_free=closure_free)
        evaluate(mixed)
        ahead = (
            mixed.optimizer.side.coming is not None and mixed.optimizer.side.coming.decided
        )  # the coming step was decided already
        assert len(asked) == number + ahead


@over_methods
def test_clean_weights_for_averages_and_files(method):
    """An average of weights and a model's own file hold w inside the block, for both call styles."""
    training = Training(method, net=Smooth)
    averaged = AveragedModel(training.model, avg_fn=lambda old, new, n: new)
    for _ in range(4):
        training.step(closure_free=method in CLOSURE_FREE)
    away = training.weights()
    with training.optimizer.clean():
        averaged.update_parameters(training.model)
        inside = training.weights()
        with pytest.raises(RuntimeError, match=r"call optimizer.train|which only a closure can compute"):
            training.optimizer.step()
    assert same(training.weights(), away)
    assert same([p.detach() for p in averaged.module.parameters()], inside)
    training.optimizer.eval()
    assert same(training.weights(), inside)
    with training.optimizer.clean():
        pass
    assert same(training.weights(), inside)


def failing(training, at):
    """Raise in the `at`-th backward pass from now."""
    passes = []

    def hook(gradient):
        passes.append(1)
        if len(passes) == at:
            raise KeyboardInterrupt

    return training.model.head.weight.register_hook(hook)


@pytest.mark.parametrize("at", [1, 2])
@over_methods
def test_a_step_that_fails_counts_nothing(method, at):
    """It can be taken again, and the training is that without the failure, but for averages of gradients seen."""
    plain, tried = (Training(method, net=Smooth) for _ in range(2))
    for _ in range(7):
        before = copy.deepcopy(tried.optimizer.state_dict()["sharpness_aware"])
        handle = failing(tried, at)
        try:
            tried.step()
        except KeyboardInterrupt:
            after = tried.optimizer.state_dict()["sharpness_aware"]
            assert same(after["axes"], before["axes"])
            if at == 1:
                assert same(after, before)
            handle.remove()
            if expected(method).draws_by_gradients:
                tried.optimizer.gradient_evaluations = before["gradient_evaluations"]
            tried.step()
        handle.remove()
        plain.step()
        if at == 1 or not expected(method).learns_from_failed_steps:
            assert same(tried.weights(), plain.weights())
            assert same(tried.optimizer.state_dict()["sharpness_aware"]["axes"],
                        plain.optimizer.state_dict()["sharpness_aware"]["axes"])  # fmt: skip


def keeps_time(method):
    """Whether its own policy counts steps; else None where it is given one that does, and False where it takes none."""
    policy = Training(method, net=Smooth).optimizer.policy
    if policy.reads_gradient:  # where nothing is perturbed no number is read
        return False
    if "steps" in policy.counters:
        return True
    try:
        training_with(method, "Between")
    except (TypeError, ValueError):  # it takes no policy, or none beside its reuse
        return False
    return None


@pytest.mark.parametrize("method", [method for method in METHODS if keeps_time(method) is not False])
def test_time_passes_while_the_radius_is_zero(method):
    """A warm-up of ρ from 0 and a policy that counts steps speak of the same steps."""
    training = training_with(method, None if keeps_time(method) else "Between")
    training.optimizer.param_groups[0]["rho"] = 0.0
    training.run(4)
    assert training.optimizer.policy.steps == 4


# States that do not fit


IN_PARTS = functools.partial(optimizers.SharpnessAware, m=8)
OTHER_SETTINGS = {
    "parts into the whole": (IN_PARTS, {}, optimizers.SharpnessAware, {}),
    "the whole into parts": (optimizers.SharpnessAware, {}, IN_PARTS, {}),
} | {
    f"{method}, {name}": (method, saved, method, loaded)
    for method in METHODS
    for name, (saved, loaded) in expected(method).other_settings.items()
}


def whole_state(training):
    away = training.optimizer.side.displacement
    return (training.weights(), training.optimizer.state_dict(), training.base.param_groups[0]["lr"], away is None)


@pytest.mark.parametrize("case", OTHER_SETTINGS)
def test_states_of_other_settings_are_refused(case):
    saved, saved_options, method, options = OTHER_SETTINGS[case]
    source = Training(saved, net=Smooth, **saved_options).run(2)
    target = Training(method, net=Smooth, **options)
    before = copy.deepcopy(whole_state(target))
    with pytest.raises(ValueError, match=r"expected the state of .*, got .*load it into \.base"):
        target.optimizer.load_state_dict(source.optimizer.state_dict())
    assert same(whole_state(target), before)


def broken_states(method):
    """Every way in which a state may not fit: another model's, another method's, parts missing, other counters."""
    good = Training(method, net=Smooth).run(3, closure_free=method in CLOSURE_FREE).optimizer.state_dict()
    entry = good["sharpness_aware"]
    yield "no entry", {key: value for key, value in good.items() if key != "sharpness_aware"}
    yield "other groups", good | {"param_groups": good["param_groups"] * 2}
    yield "fewer parameters", good | {"param_groups": [good["param_groups"][0] | {"params": [0]}]}
    yield "other method", good | {"sharpness_aware": entry | {"method": "Other"}}
    axes = {name: state | {"unknown": 1} for name, state in entry["axes"].items()}
    yield "other counters", good | {"sharpness_aware": entry | {"axes": axes}}
    yield "no axes", good | {"sharpness_aware": entry | {"axes": {}}}
    yield "other parameters", good | {"sharpness_aware": entry | {"state": {99: {"x": torch.ones(2)}}}}
    yield "other weights", good | {"sharpness_aware": entry | {"clean": {0: torch.ones(2, 2, 2)}}}
    yield (
        "a counter of another kind",
        good
        | {
            "sharpness_aware": entry
            | {"axes": {n: dict.fromkeys(s, "x") | {"bad": 0} for n, s in entry["axes"].items()}}
        },
    )


@over_methods
def test_a_refused_state_changes_nothing(method):
    for reason, state in broken_states(method):
        training = Training(method, net=Smooth, seed=1).run(2, closure_free=method in CLOSURE_FREE)
        before = copy.deepcopy(whole_state(training))
        with pytest.raises((ValueError, KeyError)):
            training.optimizer.load_state_dict(copy.deepcopy(state))
        assert same(whole_state(training), before), reason
        training.run(2, closure_free=method in CLOSURE_FREE)


def test_a_base_that_refuses_leaves_the_counters_alone():
    source, target = (
        Training(optimizers.SharpnessAware, net=Smooth, policy=optimizers.EveryK(5), reuse=optimizers.Orthogonal()).run(
            steps
        )
        for steps in (3, 1)
    )

    def refuse(*_):
        raise OSError("out of reach")

    target.optimizer.policy.load_state_dict = refuse
    before = copy.deepcopy(whole_state(target))
    with pytest.raises(OSError, match="out of reach"):
        target.optimizer.load_state_dict(source.optimizer.state_dict())
    assert same(whole_state(target), before)


@over_methods
def test_the_same_settings_by_other_words_are_accepted(method):
    source, target = Training(method, net=Net).run(3), Training(method, net=Net, seed=1)
    target.optimizer.load_state_dict(copy.deepcopy(source.optimizer.state_dict()))
    assert same(target.optimizer.state_dict(), source.optimizer.state_dict())


@over_methods
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_torch_distributed_checkpoint_changes_nothing_where_it_is_refused(method, steps, tensor_lr):
    """It steps with lr = 0 along zeros whatever holds no state, and puts neither back after an error."""
    lr = torch.tensor(0.1) if tensor_lr else 0.1
    training, twin = (Training(method, net=Smooth, options={"lr": copy.deepcopy(lr)}).run(steps) for _ in range(2))
    for one in (training, twin):
        one.optimizer.zero_grad()
    before = copy.deepcopy(whole_state(training))
    other = Smooth()
    foreign = get_optimizer_state_dict(other, torch.optim.SGD(other.parameters(), lr=0.3, momentum=0.9))
    with pytest.raises(ValueError, match="expected a state_dict of"):
        set_optimizer_state_dict(training.model, training.optimizer, foreign)
    assert same(whole_state(training), before)
    get_optimizer_state_dict(training.model, training.optimizer)
    assert same(whole_state(training), before)
    assert all(parameter.grad is None for parameter in training.optimizer.parameters)
    assert same(training.run(2).weights(), twin.run(2).weights())


@over_methods
def test_torch_distributed_checkpoint_takes_the_base_and_says_so(method):
    """Its functions keep no entry but torch's own: refused with the way to do it, and that way restores everything."""
    source, target = Training(method, net=Smooth).run(3), Training(method, net=Smooth, seed=1).run(1)
    dropped = get_optimizer_state_dict(source.model, source.optimizer)
    before = target.optimizer.state_dict()["sharpness_aware"]
    with pytest.raises(ValueError, match=r"give it \.base, and save state_dict\(\)\['sharpness_aware'\] beside that"):
        set_optimizer_state_dict(target.model, target.optimizer, dropped)
    assert same(target.optimizer.state_dict()["sharpness_aware"], before)

    kept = copy.deepcopy(get_optimizer_state_dict(source.model, source.optimizer.base))
    entry = copy.deepcopy(source.optimizer.state_dict()["sharpness_aware"])
    target.model.load_state_dict(source.model.state_dict())
    set_optimizer_state_dict(target.model, target.optimizer.base, kept)
    target.optimizer.load_state_dict({**target.optimizer.base.state_dict(), "sharpness_aware": entry})
    target.number = source.number
    assert same(target.run(3).weights(), source.run(3).weights())

"""Policies, metrics and schedules of ρ by name, in TOML and on the command line, in steps or epochs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import optimizers
from landscape import imports
from landscape.__main__ import main
from landscape.data import load
from landscape.experiment import CHOICES, Experiment
from landscape.runs.run import Run
from landscape.seeding import generator, isolated
from landscape.training.bases import build_base
from landscape.training.methods import build_method
from landscape.training.schedule import build_schedule
from landscape.training.training import Training, train
from optimizers.ground.signatures import options_of

SMALL = Experiment(
    data_options={"train_examples": 60}, model_options={"widths": [4]}, batch_size=20, epochs=4, optimizer="msam",
    rho=1.0,
)  # fmt: skip
FOUND = [(kind, name) for kind in CHOICES for name in optimizers.choices(kind)]


class Odd(optimizers.EveryK):
    """Somebody's own policy: on every second step."""

    def __init__(self) -> None:
        super().__init__(2)


def test_the_vit_setting_of_msam_is_the_policy_made_by_hand(tmp_path: Path) -> None:
    """Step by step: no perturbation in the first epochs, MSAM from then on."""
    experiment = SMALL.replace(policy={"name": "between", "start_epochs": 2})
    losses = train(experiment, tmp_path, progress=False).metrics.loss.values
    training = Training(SMALL)
    base = build_base(SMALL, training.model)
    by_hand = optimizers.MSAM(base, rho=1.0, policy=optimizers.Between(start=6))
    schedule, data = build_schedule(SMALL, by_hand, 3), load(SMALL).train
    expected: list[float] = []
    for epoch in range(4):
        order = torch.randperm(len(data), generator=generator(SMALL.seed, "data order", epoch))
        for index in order.split(SMALL.batch_size):
            inputs, targets = data.inputs[index], data.targets[index]
            closure = optimizers.BatchClosure(training.model, torch.nn.functional.cross_entropy, inputs, targets)
            expected.append(float(by_hand.step(closure)))
            schedule.step()
            assert by_hand.policy.decides(by_hand.coming_step()) == (len(expected) >= 6)
    assert losses.tolist() == expected


@pytest.mark.parametrize(
    ("experiment", "attribute", "steps"),
    [
        (SMALL.replace(optimizer="late_sam", rho=None, optimizer_options={"start_epochs": 1.5}), "start", 4),
        (SMALL.replace(optimizer="vsam", rho=None, optimizer_options={"warmup_epochs": 2}), "warmup_left", 6),
        (SMALL.replace(optimizer="sam", rho=None, policy={"name": "variance_window"}), "warmup_left", 9),
        (SMALL.replace(optimizer="sam", rho=None, policy={"name": "variance_window", "warmup": 2}), "warmup_left", 2),
        (SMALL.replace(optimizer="sam", rho=None, policy={"name": "long_gradient"}), "total_steps", 12),
        (SMALL.replace(optimizer="aesam", rho=None), "total_steps", 12),
        (SMALL.replace(policy={"name": "between", "stop_epochs": 3}), "stop", 9),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_counts_steps_may_be_said_in_epochs_and_follows_the_training(
    experiment: Experiment, attribute: str, steps: int
) -> None:
    assert getattr(Training(experiment).optimizer.policy, attribute) == steps


def test_the_radius_follows_a_schedule(tmp_path: Path) -> None:
    schedule = {"name": "follow_learning_rate", "rho_max": 0.2, "rho_min": 0.1}
    experiment = SMALL.replace(optimizer="sam", rho=None, rho_schedule=schedule)
    train(experiment, tmp_path, progress=False)
    training = Training(experiment)
    for index in training.batches_of_epoch(0):
        training.take_step(index)
    (group,) = training.optimizer.param_groups
    assert 0.1 < group["rho"] <= 0.2
    with pytest.raises(ValueError, match="either rho or rho_schedule"):
        experiment.replace(rho=0.1)


@pytest.mark.parametrize(("kind", "name"), FOUND, ids=str)
def test_all_that_is_listed_is_made_by_name(kind: str, name: str) -> None:
    """A new class needs no line anywhere: it is found by its own name, which tells it from all others of the kind."""
    options = options_of(optimizers.choices(kind)[name])
    demanded = [option for option, parameter in options.items() if parameter.default is parameter.empty]
    made = optimizers.create_choice(kind, name, **dict.fromkeys(demanded, 1))
    assert type(made) is optimizers.choices(kind)[name]
    assert len(set(optimizers.choices(kind).values())) == len(optimizers.choices(kind))


def test_the_kinds_have_what_the_papers_need() -> None:
    assert {"between", "every_k", "bernoulli", "variance_window", "long_gradient"} <= set(optimizers.choices("policy"))
    assert {"adaptive", "per_tensor", "unnormalized", "euclidean"} <= set(optimizers.choices("metric"))
    assert "follow_learning_rate" in optimizers.choices("rho_schedule")
    assert "only" not in optimizers.choices("metric")  # it is made of a function, which no file has


def test_a_metric_by_name_is_the_metric_made_by_hand() -> None:
    named, by_hand = Training(SMALL.replace(metric={"name": "per_tensor"})), Training(SMALL)
    by_hand.optimizer.metric = optimizers.PerTensor()
    for index in named.batches_of_epoch(0):
        for training in (named, by_hand):
            training.take_step(index)
    assert all(torch.equal(a, b) for a, b in zip(named.parameters, by_hand.parameters, strict=True))


def test_anybodys_policy_stands_under_the_rule_of_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_allowed", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    theirs = f"{__name__}:Odd"
    text = SMALL.replace(policy={"name": theirs}).to_toml()
    monkeypatch.setattr(imports, "_allowed", set())
    read = Experiment.from_toml(text)
    with pytest.raises(PermissionError, match="you have not named it yourself"):
        Training(read)
    with pytest.raises(PermissionError):
        Training(read.replace(lr=0.2))
    assert type(Training(read.replace(policy={"name": theirs})).optimizer.policy) is Odd
    with pytest.raises(ValueError, match="expected a subclass of Policy"):
        Training(read.replace(policy={"name": "torch.nn:Linear"}))


@pytest.mark.parametrize("written", ["{}.name {}", "{}.name={}", '{} {{"name":"{}"}}', '{}={{"name":"{}"}}'])
def test_a_name_that_was_typed_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setattr(imports, "_allowed", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(SMALL.replace(epochs=1).to_toml())
    options = written.format("--policy", f"{__name__}:Odd").split()
    assert main(["train", str(tmp_path / "run"), "-c", str(recipe), *options]) == 0
    policy = Run.open(tmp_path / "run").experiment.policy
    assert policy == {"name": f"{__name__}:Odd"}


POLICY: dict[str, Any] = {"name": "between"}
WRONG = {
    "unknown name": ({"policy": {"name": "betwen"}}, "unknown policy 'betwen'.*did you mean 'between'"),
    "no name": ({"policy": {"start": 3}}, r'policy: expected a table with a name, as \{name = "…"\}'),
    "unknown option": ({"policy": POLICY | {"begin": 3}}, "policy 'between'.*begin.*among start, stop"),
    "of another type": ({"policy": POLICY | {"start": 2.5}}, "start: expected a whole number at least 0, got 2.5"),
    "out of range": ({"policy": POLICY | {"start": -1}}, "start: expected a whole number at least 0, got -1"),
    "empty": ({"policy": POLICY | {"start": 5, "stop": 5}}, "policy 'between': expected 0 ≤ start < stop"),
    "twice": ({"policy": POLICY | {"start": 3, "start_epochs": 1}}, "start: expected once, in steps or in epochs"),
    "epochs of another type": ({"policy": POLICY | {"start_epochs": "x"}}, "start_epochs: expected a finite number"),
    "negative epochs": ({"policy": POLICY | {"start_epochs": -1}}, "start_epochs: expected a finite number at least 0"),
    "not counted in steps": (
        {"policy": {"name": "every_k", "k_epochs": 1}},
        "unknown option k_epochs; expected among k",
    ),
    "of a method": ({"optimizer_options": {"k_epochs": 1}}, "unknown option k_epochs"),
    "one too few": ({"policy": {"name": "every_k"}}, "policy 'every_k': expected k, which has no default"),
    "its own already": ({"optimizer": "vsam", "policy": POLICY}, "policy: vsam has one of its own"),
    "metric": ({"metric": {"name": "manhattan"}}, "unknown metric 'manhattan'"),
    "schedule": ({"rho": None, "rho_schedule": {"name": "linear"}}, "unknown rho_schedule 'linear'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, says = WRONG[case]
    with pytest.raises(ValueError, match=says):
        train(SMALL.replace(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(SMALL.replace(rho=None).to_toml())
    options = [part for k, v in changes.items() if v for part in (f"--{k}", v if isinstance(v, str) else json.dumps(v))]
    assert main(["train", str(tmp_path / "run"), "-c", str(recipe), *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("landscape ")]
    assert len(lines) == 1
    assert "TypeError" not in lines[0] or case == "of a method"
    assert not (tmp_path / "run").exists()


def test_build_method_says_which_lengths_followed_the_training() -> None:
    training = Training(SMALL)
    base = build_base(SMALL, training.model)
    with isolated(0, "here"):
        _, lengths = build_method(SMALL.replace(optimizer="vsam", rho=None), base, 3)
    assert lengths == {"warmup": 9}

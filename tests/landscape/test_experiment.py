"""An experiment says everything once: TOML and Python agree, and what is wrong is refused by name."""

import dataclasses
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape import recipe
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.recipe import Recipe

names = st.text(string.ascii_letters + string.digits + "_:. µ\"\\'", min_size=1, max_size=12)
numbers = st.floats(min_value=0, max_value=1, allow_nan=False)


@given(
    st.builds(
        Experiment,
        data=names,
        label_noise=numbers,
        model_options=st.dictionaries(names, st.one_of(st.integers(-9, 9), st.booleans(), names, st.lists(numbers))),
        rho=st.none() | st.floats(-10, 10),
        lr=numbers,
        epochs=st.integers(1, 10),
        warmup_epochs=numbers,
        schedule=st.sampled_from(["cosine", "constant"]),
        precision=st.sampled_from(["float32", "float64", "bf16"]),
        seed=st.integers(0, 2**60),
    )
)
def test_toml_round_trip(experiment: Experiment) -> None:
    assert Experiment.from_toml(experiment.to_toml()) == experiment


def test_one_experiment_has_one_text() -> None:
    assert Experiment(lr=1).to_toml() == Experiment(lr=1.0).to_toml()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lrr = 0.1", "unknown key 'lrr'.*did you mean 'lr'"),
        ("lr = 'fast'", "lr.*float.*fast"),
        ("epochs = 1.5", "epochs.*int.*1.5"),
        ("epochs = 0", "epochs: expected a number at least 1, got 0"),
        ("label_noise = 1.5", "label_noise: expected a number between 0.0 and 1.0, got 1.5"),
        ("schedule = 'linear'", "schedule.*cosine.*linear"),
        ("epochs = 2\nwarmup_epochs = 3", "warmup_epochs: expected at most epochs = 2"),
        ("model_options = 3", "model_options.*dict.*3"),
        ("lr = ", "not TOML"),
    ],
)
def test_wrong_experiments_are_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){says}"):
        Experiment.from_toml(text)


def test_experiments_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment().lr = 1.0  # type: ignore[misc]
    assert Experiment().replace(lr=0.5).lr == 0.5


def test_each_experiment_has_a_name_of_its_own_for_ever() -> None:
    """Digests name the folders of runs: what they say of an experiment may never change."""
    assert Experiment().digest == "44136fa355b3678a"
    assert Experiment(lr=0.5, seed=3).digest == "4abbd5fa15ff08ac"
    options = {"widths": [3, 4], "batch_norm": True, "dropout": 0.25}
    assert Experiment(model="mlp", model_options=options, optimizer="msam", rho=1).digest == "ea90f2d9afae4f5c"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"model_options": {"a": 1, "b": [2.0]}}, {"model_options": {"b": [2], "a": 1.0}}),
        ({"model_options": {"widths": (3,)}}, {"model_options": {"widths": [3]}}),
        ({}, {"epochs": 40, "rho": None, "data_options": {}}),
    ],
    ids=str,
)
def test_equal_experiments_have_one_name(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Experiment(**one) == Experiment(**other)
    assert Experiment(**one).digest == Experiment(**other).digest
    assert len(Experiment(**one).digest) == 16


def test_every_field_is_in_the_name() -> None:
    values = {"str": "x", "int": 7, "float": 0.25, "float | None": 0.25, "dict[str, Any]": {"name": "x"}}
    values["list[dict[str, Any]]"] = [{"name": "flip"}]
    values |= {str(f.type): ["norm"] for f in dataclasses.fields(Experiment) if f.name == "no_decay"}
    chosen = {"precision": "tf32", "schedule": "constant"}
    names = [Experiment().digest]
    for f in dataclasses.fields(Experiment):
        names.append(Experiment(**{f.name: chosen.get(f.name, values.get(str(f.type)))}).digest)
    assert len(set(names)) == len(dataclasses.fields(Experiment)) + 1


# how it is carried out


def test_no_name_means_two_things() -> None:
    assert not set(Experiment.names()) & set(Execution.names())


@pytest.mark.parametrize("name", Execution.names())
def test_what_belongs_to_the_execution_is_refused_with_where_it_belongs(name: str) -> None:
    value = getattr(Execution(), name)
    with pytest.raises(TypeError, match=rf"{name}: expected it in the Execution, .*Execution\({name}="):
        Experiment(**{name: value})
    with pytest.raises(TypeError, match=rf"Execution\({name}="):
        Experiment().replace(**{name: value})
    with pytest.raises(ValueError, match=f"unknown key '{name}' in an experiment: it is of the Execution"):
        Experiment.from_toml(f"{name} = {json.dumps(value)}")


def test_a_recipe_has_both(tmp_path: Path) -> None:
    both = Recipe(Experiment(lr=0.5, model_options={"widths": [3]}), Execution(device="mps", probe_every=3))
    assert recipe.loads(both.to_toml()) == both
    assert Execution.from_toml(both.execution.to_toml()) == both.execution
    with pytest.raises(
        ValueError, match="unknown key 'devise' in an experiment or an execution; did you mean 'device'"
    ):
        recipe.loads("devise = 'cpu'")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "gpu"),
        ("device", "cpu:1"),
        ("micro_batch_size", -1),
        ("checkpoint_every", 0),
        ("probe_rho_sam", -0.1),
    ],
)
def test_wrong_executions_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Execution(**{name: value})

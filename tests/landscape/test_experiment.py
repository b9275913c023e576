"""An experiment says everything once: TOML and Python agree, and what is wrong is refused by name."""

import dataclasses
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape.experiment import Experiment

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

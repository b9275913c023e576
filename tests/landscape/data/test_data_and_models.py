"""Data, label noise and models: what is random is named, what is reported is counted."""

import pytest
import torch
from torch import nn

from landscape.data import Data, Split, load
from landscape.experiment import Experiment
from landscape.models import build


def test_digits_are_the_real_images_in_a_fixed_split() -> None:
    data = load(Experiment())
    assert (len(data.train), len(data.test), data.classes) == (1000, 797, 10)
    assert data.train.inputs.shape == (1000, 1, 8, 8)
    assert abs(data.train.inputs.mean()) < 1e-5
    assert data.train.inputs.std().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(load(Experiment(seed=7)).train.inputs, data.train.inputs)
    images = {tuple(image.flatten().tolist()) for image in torch.cat([data.train.inputs, data.test.inputs])}
    assert len(images) > 1790  # the splits share no image (a few of the 1797 are equal in the source)


def test_label_noise_reports_the_effective_flip_rate() -> None:
    clean, noisy = load(Experiment()), load(Experiment(label_noise=0.4))
    flipped = clean.train.targets != noisy.train.targets
    assert noisy.flipped is not None
    assert torch.equal(noisy.flipped, flipped)
    assert noisy.flip_rate == flipped.sum().item() / 1000
    assert 0.33 < noisy.flip_rate < 0.39  # 0.4 · 9/10 expected: a redrawn label is right once in ten
    assert torch.equal(clean.test.targets, noisy.test.targets)
    assert clean.flip_rate == 0.0


def test_label_noise_is_a_stream_of_the_seed() -> None:
    a, b, other = (load(Experiment(label_noise=0.4, seed=s)).train.targets for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


@pytest.mark.parametrize("options", [{}, {"widths": [8], "activation": "tanh"}, {"batch_norm": True, "dropout": 0.5}])
def test_mlps_map_digits_to_classes(options: dict[str, object]) -> None:
    experiment = Experiment(model="mlp", model_options=options)
    data = load(experiment)
    assert build(experiment, data)(data.test.inputs[:5]).shape == (5, 10)


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("none", nn.Identity)])
def test_convnets_have_the_norm_asked_for(norm: str, kind: type[nn.Module]) -> None:
    experiment = Experiment(model="convnet", model_options={"norm": norm, "channels": [4, 6]})
    data = load(experiment)
    model = build(experiment, data)
    assert sum(isinstance(module, kind) for module in model.modules()) == 2
    assert model(data.test.inputs[:5]).shape == (5, 10)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    experiment = Experiment()
    data = load(experiment)
    before = torch.get_rng_state()
    first = build(experiment, data)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    again, other = build(experiment, data), build(experiment.replace(seed=1), data)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def own_model(input_shape: tuple[int, ...], width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))


def own_data() -> Data:
    split = Split(torch.randn(12, 64), torch.arange(12) % 3)
    return Data(train=split, test=split, classes=3)


def no_data() -> Data:
    empty = Split(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    return Data(train=empty, test=empty, classes=3)


def test_anybodys_factories_work_by_import_path() -> None:
    experiment = Experiment(model=f"{__name__}:own_model", model_options={"width": 5}, data=f"{__name__}:own_data")
    data = load(experiment)
    assert build(experiment, data)(data.train.inputs).shape == (12, 10)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "mpl"}, "unknown model 'mpl': expected one of convnet, mlp.*Did you mean 'mlp'"),
        ({"model": "nowhere:net"}, "nowhere:net.*importable"),
        ({"model": "torch.nn:Identity"}, "at least one parameter"),
        ({"model_options": {"width": 3}}, "unknown option width; expected among .*widths"),
        ({"data": "digit"}, "unknown data set 'digit': expected one of digits"),
        ({"data": "math:pi"}, "expected something to call, got float"),
        ({"data": f"{__name__}:no_data"}, "at least one"),
        ({"data_options": {"train_examples": 5000}}, "train_examples: expected 1 to 1796, got 5000"),
        ({"model": "convnet", "model_options": {"norm": "layer"}}, "norm: expected one of batch, group, none"),
    ],
)
def test_wrong_names_and_options_are_answered(changes: dict[str, object], says: str) -> None:
    experiment = Experiment(**changes)
    with pytest.raises(ValueError, match=says):
        build(experiment, load(experiment))

"""The papers' networks: parameter counts as published, outputs as another library's, every width small enough to try."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from landscape.models import models
from landscape.objective.objective import Objective

TESTS = Path(__file__).parents[2]
# parameters with 10 classes on 32 × 32 colour images, unless said otherwise; the papers round them
GOLDEN = {
    "resnet18": 11_173_962,
    "resnet20": 269_722,  # He et al. (2016), Tab. 6: 0.27 M
    "resnet32": 464_154,  # 0.46 M
    "resnet50": 23_520_842,
    "resnet56": 853_018,  # 0.85 M
    "resnet110": 1_727_962,  # 1.7 M
    "wrn16_4": 2_748_890,  # Zagoruyko and Komodakis (2016), Tab. 4: 2.7 M
    "wrn28_10": 36_479_194,  # 36.5 M
    "wrn40_2": 2_243_546,  # 2.2 M
    "wrn40_10": 55_841_754,  # 55.8 M
    "vgg16_bn": 14_728_266,
    "pyramidnet110": 28_485_477,  # Han et al. (2017), α = 270
}
IMAGENET = {"resnet50_imagenet": 25_557_032, "resnet101_imagenet": 44_549_160, "resnet152_imagenet": 60_192_808}
NARROW = {
    **{name: {"width": 4} for name in GOLDEN if name.startswith(("resnet", "vgg"))},
    **{name: {"widen": 0.5} for name in GOLDEN if name.startswith("wrn")},
    "pyramidnet110": {"alpha": 12, "blocks": 2},
}
NORMS = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm, "none": nn.Identity}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", GOLDEN)
def test_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        assert count(models.create(name, {"input_shape": (3, 32, 32), "classes": 10}, {})) == GOLDEN[name]


@pytest.mark.parametrize("name", IMAGENET)
def test_the_published_number_of_parameters_for_imagenet(name: str) -> None:
    with torch.device("meta"):
        assert count(models.create(name, {"input_shape": (3, 224, 224), "classes": 1000}, {})) == IMAGENET[name]


def test_pyramidnet_of_the_smaller_alpha() -> None:
    with torch.device("meta"):
        model = models.create("pyramidnet110", {"input_shape": (3, 32, 32), "classes": 10}, {"alpha": 48})
    assert count(model) == 1_772_706  # Han et al. (2017), Tab. 4: 1.7 M


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", GOLDEN)
def test_narrow_ones_train_on_grey_images_with_any_norm(name: str, norm: str) -> None:
    side = 32 if name == "vgg16_bn" else 16
    model = models.create(name, {"input_shape": (1, side, side), "classes": 7}, {**NARROW[name], "norm": norm})
    kinds = {type(module) for module in model.modules()} & set(NORMS.values())
    assert kinds - {nn.Identity} == {NORMS[norm]} - {nn.Identity}
    outputs = model(torch.randn(4, 1, side, side))
    assert outputs.shape == (4, 7)
    nn.functional.cross_entropy(outputs, torch.arange(4)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_network_without_skips_has_the_same_parameters_and_other_outputs() -> None:
    given, images = {"input_shape": (3, 16, 16), "classes": 10}, torch.randn(2, 3, 16, 16)
    torch.manual_seed(0)
    with_skips = models.create("resnet20", given, {"width": 4})
    torch.manual_seed(0)
    without = models.create("resnet20", given, {"width": 4, "skips": False})
    assert all(torch.equal(a, b) for a, b in zip(with_skips.parameters(), without.parameters(), strict=True))
    assert not torch.allclose(with_skips(images), without(images))


@pytest.mark.processes
def test_resnet50_equals_that_of_transformers() -> None:
    """The same weights give the same outputs: strides, shortcuts and order of operations are those of the other code."""
    pytest.importorskip("transformers")
    script = [
        sys.executable,
        TESTS / "optimizers/core/without_torchvision.py",
        TESTS / "landscape/models/resnet_beside_another.py",
    ]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1e-5


def test_convolutions_begin_with_the_variance_of_he() -> None:
    torch.manual_seed(0)
    model = models.create("wrn16_4", {"input_shape": (3, 32, 32), "classes": 10}, {})
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert float(module.weight.detach().var()) == pytest.approx(2 / fan_out, rel=0.05)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_network_has_second_derivatives(name: str) -> None:
    """A Hessian product in eval mode is finite and symmetric: uᵀHv = vᵀHu, in float64."""
    side = 32 if name == "vgg16_bn" else 8
    model = models.create(name, {"input_shape": (1, side, side), "classes": 3}, NARROW[name]).double()
    batch = (torch.randn(4, 1, side, side, dtype=torch.float64), torch.tensor([0, 1, 2, 0]))
    hessian = Objective(model, nn.CrossEntropyLoss(), [batch]).hessian()
    u, v = torch.randn(2, hessian.shape[0], dtype=torch.float64)
    torch.testing.assert_close(u @ (hessian @ v), v @ (hessian @ u), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("resnet20", (64,), r"expected images of shape \(channels, height, width\)"),
        ("vgg16_bn", (3, 28, 28), "at least 32 pixels a side; got"),
        ("resnet50_imagenet", (3, 16, 16), "at least 32 pixels a side"),
    ],
)
def test_what_is_no_fitting_image_is_refused(name: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        models.create(name, {"input_shape": shape, "classes": 10}, {})


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm: expected one of batch, group, none, got 'layer'"):
        models.create("resnet20", {"input_shape": (3, 8, 8), "classes": 10}, {"norm": "layer"})

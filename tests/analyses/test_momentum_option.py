"""Law of every analysis that takes a momentum: the optimizer itself is enough, in whatever order it holds the parameters."""

from typing import Any

import pytest
import torch
import xarray as xr
from torch import nn

import analyses
import optimizers
from landscape.objective import Objective

TAKERS = [name for name in analyses.available() if "momentum" in analyses.get(name).options]
OPTIONS: dict[str, dict[str, Any]] = {
    "curvature_along": {"directions": ["momentum"]},
    "directional_sharpness": {"directions": ["momentum"], "radii": [-0.5]},
    "gradient_similarity": {"rho_msam_grid": [0.1], "rho_sam": 0.1},
    "loss_surface": {"directions": ["momentum"], "points": 3},
}
BASES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
}


def layers() -> nn.Sequential:
    """Equal shapes throughout, so that a wrong order fits."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))


def trained(base: str, method: str, order: str) -> tuple[Objective, torch.optim.Optimizer]:
    model = layers()
    weights = [layer.weight for layer in model]
    biases = [layer.bias for layer in model]
    groups = {
        "model": [{"params": list(model.parameters())}],
        "reversed": [{"params": list(model.parameters())[::-1]}],
        "decay": [{"params": weights, "weight_decay": 1e-3}, {"params": biases}],
        "layers": [{"params": list(layer.parameters())} for layer in reversed(model)],
    }[order]
    x, y = torch.randn(12, 3), torch.randint(3, (12,))
    optimizer = optimizers.create(method, BASES[base](groups))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return Objective(model, nn.CrossEntropyLoss(), [(x, y)]), optimizer


def numbers(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_attrs(deep=False)


def test_every_taker_is_asked() -> None:
    assert set(TAKERS) == set(OPTIONS)


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("order", ["model", "reversed", "decay", "layers"])
@pytest.mark.parametrize(("base", "method"), [("sgd", "plain"), ("adamw", "sam")])
def test_the_optimizer_is_mapped_by_identity(name: str, order: str, base: str, method: str) -> None:
    objective, optimizer = trained(base, method, order)
    inner = optimizer.base  # type: ignore[attr-defined]
    key = "momentum_buffer" if base == "sgd" else "exp_avg"
    by_hand = torch.cat([inner.state[p][key].reshape(-1) for p in objective.model.parameters()])
    expected = numbers(analyses.get(name)(objective, momentum=by_hand, **OPTIONS[name]))
    for given in (optimizer, inner):
        found = analyses.get(name)(objective, momentum=given, **OPTIONS[name])
        xr.testing.assert_identical(numbers(found), expected)
        assert found.attrs["momentum"] == f"of {type(given).__name__}"
    mapping = {key_: inner.state[p][key] for key_, p in objective.model.named_parameters()}
    found = analyses.get(name)(objective, momentum=mapping, **OPTIONS[name])
    xr.testing.assert_identical(numbers(found), expected)
    if order == "model":  # also where the objective works on a copy
        double = Objective(objective.model, objective.loss_fn, list(objective.batches), dtype=torch.float64)
        in_double = analyses.get(name)(double, momentum=optimizer, **OPTIONS[name])
        same = analyses.get(name)(double, momentum=by_hand.double(), **OPTIONS[name])
        xr.testing.assert_identical(numbers(in_double), numbers(same))


@pytest.mark.parametrize("name", TAKERS)
def test_what_cannot_be_mapped_is_refused(name: str) -> None:
    objective, optimizer = trained("sgd", "msam", "layers")
    with pytest.raises(TypeError, match=r"expected the optimizer, a mapping .* got list"):
        analyses.get(name)(objective, momentum=optimizers.first_moment(optimizer), **OPTIONS[name])
    stranger = torch.optim.SGD(layers().parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="holds none of them"):
        analyses.get(name)(objective, momentum=stranger, **OPTIONS[name])


def test_a_block_has_the_block_of_the_momentum_and_what_is_not_stepped_none() -> None:
    objective, optimizer = trained("sgd", "plain", "layers")
    block = objective.restricted("2")
    found = analyses.curvature_along(block, momentum=optimizer, directions=["momentum"])
    by_hand = torch.cat(
        [optimizer.base.state[p]["momentum_buffer"].reshape(-1) for p in objective.model[2].parameters()]
    )  # type: ignore[attr-defined]
    same = analyses.curvature_along(block, momentum=by_hand, directions=["momentum"])
    xr.testing.assert_identical(numbers(found), numbers(same))
    fresh = torch.optim.SGD(objective.model[0].parameters(), lr=0.1, momentum=0.9)  # no step yet
    assert "momentum" in analyses.directional_sharpness(objective, momentum=fresh, radii=[1.0]).attrs["left_out"]

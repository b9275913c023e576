import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landscape.objective.directions import filter_normalized, gaussian, random_unit, unit
from landscape.objective.parameters import ParameterSpace


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5), nn.LayerNorm((5,)), nn.Embedding(4, 5)
    )


def vector_of(model: nn.Module) -> torch.Tensor:
    return ParameterSpace.of(model).flatten([p.detach() for p in model.parameters()])


def test_unit_has_norm_one_and_the_same_direction() -> None:
    d = torch.randn(50, dtype=torch.float64)
    torch.testing.assert_close(unit(d) * d.norm(), d)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])])
def test_a_vector_without_a_direction_is_refused_by_name(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="momentum: expected a finite, non-zero vector"):
        unit(bad, "momentum")


def test_one_seed_is_one_direction_in_every_precision() -> None:
    drawn = [
        gaussian(torch.Generator().manual_seed(5), torch.zeros(100, dtype=d)) for d in (torch.float64, torch.float32)
    ]
    assert torch.equal(drawn[0].float(), drawn[1])


def test_random_unit_vectors_have_no_preferred_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_unit(generator, torch.zeros(3, dtype=torch.float64)) for _ in range(4000)])
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(4000, dtype=torch.float64))
    # E d = 0, E d dᵀ = I/3, each entry to 5 standard errors (at most 0.58/√4000 and 0.30/√4000)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(3, dtype=torch.float64), atol=0.046, rtol=0)
    torch.testing.assert_close(drawn.T @ drawn / 4000, torch.eye(3, dtype=torch.float64) / 3, atol=0.024, rtol=0)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_every_filter_gets_the_norm_of_the_weights_filter(seed: int, scale: float) -> None:
    model = network()
    space, theta = ParameterSpace.of(model), vector_of(model).double()
    raw = scale * gaussian(torch.Generator().manual_seed(seed), theta)
    d = space.unflatten(filter_normalized(raw, theta, space))
    w = space.unflatten(theta)
    for name in ("0.weight", "3.weight", "5.weight"):
        torch.testing.assert_close(d[name].flatten(1).norm(dim=1), w[name].flatten(1).norm(dim=1), rtol=1e-5, atol=0)
        cosine = torch.cosine_similarity(d[name].flatten(1), space.unflatten(raw)[name].flatten(1))
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
    for name in ("0.bias", "1.weight", "1.bias", "3.bias", "4.weight", "4.bias"):
        assert not d[name].any(), name


def test_a_normalisation_layer_with_a_matrix_of_scales_is_not_moved() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm((3, 2)))
    space, theta = ParameterSpace.of(model), vector_of(model)
    assert not space.unflatten(filter_normalized(torch.ones_like(theta), theta, space))["1.weight"].any()


def test_zero_filters_stay_zero_and_make_no_nan() -> None:
    model = nn.Linear(3, 2)
    space, theta = ParameterSpace.of(model), vector_of(model)
    d = space.unflatten(filter_normalized(torch.zeros_like(theta), theta, space))
    assert not any(part.any() for part in d.values())

"""Named tensors to one vector and back."""

import pytest
import torch
from torch import nn

from landscape.objective.parameters import NORMALISATION, ParameterSpace


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    model[0].bias.requires_grad_(False)
    return model


def test_round_trip_is_exact_in_both_directions() -> None:
    model = network()
    space = ParameterSpace.of(model)
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    assert space.names == tuple(parameters)
    vector = space.flatten(parameters)
    assert vector.shape == (space.size,) == (sum(p.numel() for p in parameters.values()),)
    back = space.unflatten(vector)
    assert all(torch.equal(back[name], parameters[name]) for name in parameters)
    assert torch.equal(space.flatten(list(parameters.values())), vector)
    several = torch.randn(3, space.size)
    assert torch.equal(space.flatten_rows(space.unflatten_rows(several)), several)


def test_shared_parameters_are_one_block_under_their_first_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert ParameterSpace.of(model).names == ("0.weight", "0.bias", "1.bias")


def test_selection_by_name_prefix_pattern_type_and_predicate() -> None:
    space = ParameterSpace.of(network())
    assert space.subspace("2").names == ("2.0.weight", "2.0.bias", "2.1.weight", "2.1.bias")
    assert space.subspace("*.bias").names == ("1.bias", "2.0.bias", "2.1.bias")
    assert space.subspace(NORMALISATION).names == ("1.weight", "1.bias", "2.1.weight", "2.1.bias")
    assert space.subspace(nn.Linear).names == ("0.weight", "2.0.weight", "2.0.bias")
    assert space.subspace(["1.weight", "0"]).names == ("0.weight", "1.weight")
    assert space.subspace(lambda name: "2.1" in name).size == 8
    part = space.subspace("2")
    vector = torch.arange(float(space.size))
    assert torch.equal(vector[space.indices(part)], part.flatten({n: space.unflatten(vector)[n] for n in part.names}))


def test_mixed_dtypes_meet_in_the_widest() -> None:
    model = nn.Sequential(nn.Linear(2, 2).to(torch.bfloat16), nn.Linear(2, 2))
    space = ParameterSpace.of(model)
    assert space.dtype == torch.float32
    blocks = space.unflatten(torch.randn(space.size))
    assert [block.dtype for block in blocks.values()] == [torch.bfloat16] * 2 + [torch.float32] * 2


def test_what_does_not_fit_is_refused() -> None:
    space = ParameterSpace.of(network())
    with pytest.raises(ValueError, match="flattened from another model"):
        space.unflatten(torch.zeros(space.size + 1))
    with pytest.raises(ValueError, match=r"missing 2\.1\.bias"):
        space.flatten(
            {name: torch.zeros(shape) for name, shape in list(zip(space.names, space.shapes, strict=True))[:-1]}
        )
    with pytest.raises(ValueError, match="another model"):
        space.flatten([torch.zeros(2)])
    with pytest.raises(ValueError, match="no such parameter"):
        space.subspace("encoder")
    with pytest.raises(ValueError, match="trainable parameters"):
        ParameterSpace.of(nn.ReLU())
    with pytest.raises(ValueError, match=r"not among"):
        space.subspace("2").indices(space)

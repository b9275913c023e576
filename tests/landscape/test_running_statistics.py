"""Statistics for an evaluation: equal to those of the data, and nothing of the model touched, its own included."""

import pytest
import torch
from torch import nn

from landscape.running_statistics import gather, holding, own, put


def network() -> nn.Sequential:
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2), nn.BatchNorm1d(2)
    return nn.Sequential(*layers).double()


def state(model: nn.Module) -> dict[str, object]:
    return {
        "buffers": {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()},
        "modes": [module.training for module in model.modules()],
        "momenta": [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm1d)],
        "random": torch.get_rng_state().tolist(),  # dropout draws nothing
    }


def test_statistics_are_those_of_the_data_and_the_model_is_left_alone() -> None:
    model, inputs = network(), torch.randn(60, 3, dtype=torch.float64)
    model(inputs * 5)  # running statistics of something else
    model[4].eval()
    before = state(model)
    found = gather(model, [inputs])
    hidden = model[0](inputs)
    assert list(found) == ["1.running_mean", "1.running_var", "4.running_mean", "4.running_var"]
    torch.testing.assert_close(found["1.running_mean"], hidden.mean(0))
    torch.testing.assert_close(found["1.running_var"], hidden.var(0))
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
    model.eval()
    before = state(model)
    usual = model(inputs)
    with holding(model, found):
        held = model(inputs)
    assert torch.equal(model(inputs), usual)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
    put(model, found)
    assert torch.equal(model(inputs), held)
    assert not torch.equal(held, usual)
    torch.testing.assert_close(own(model), found, rtol=0, atol=0)


def test_the_average_is_over_batches_and_forgets_the_past() -> None:
    model = nn.BatchNorm1d(2).double()  # which is its own layer, without a name
    batches = [torch.randn(10, 2, dtype=torch.float64) + i for i in range(3)]
    once = gather(model, batches)
    torch.testing.assert_close(once["running_mean"], torch.stack([b.mean(0) for b in batches]).mean(0))
    put(model, once)
    assert all(torch.equal(once[name], tensor) for name, tensor in gather(model, batches).items())
    assert model.num_batches_tracked == 0


def test_a_failing_pass_leaves_the_model_alone() -> None:
    model = network()
    model(torch.randn(9, 3, dtype=torch.float64))
    batches = [torch.randn(9, width, dtype=torch.float64) for width in (3, 7)]
    before = state(model)
    with pytest.raises(RuntimeError, match="mat1"):
        gather(model, batches)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)


def test_without_batch_norm_nothing_is_passed_forward() -> None:
    assert gather(nn.Linear(3, 2), iter([None])) == {}  # type: ignore[list-item]

"""Statistics for an evaluation: equal to those of the data, and nothing of the model touched, its own included."""

import copy

import pytest
import torch
from torch import nn

from landscape.objective.objective import Objective
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


LAYERS = {
    name: kind
    for name, kind in vars(nn).items()
    if isinstance(kind, type)
    and issubclass(kind, nn.modules.batchnorm._NormBase)
    and kind is not nn.SyncBatchNorm  # wants a group of processes
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_of_torch_that_holds_statistics_is_measured_in_every_mode_and_left_alone(name: str) -> None:
    """Against the model called by hand: running statistics, those of training, and an average gathered at the weights."""
    dimensions = 2 if "2d" in name else 3 if "3d" in name else 1
    width = () if name.startswith("Lazy") else (2,)
    layer = LAYERS[name](*width, track_running_stats=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(2 * 3**dimensions, 3))
    data = [(torch.randn(4, 2, *[3] * dimensions) * i + i, torch.randint(3, (4,))) for i in (1, 2, 3)]
    for inputs, _ in data:
        model(inputs)
    model.double()
    data = [(inputs.double(), targets) for inputs, targets in data]
    before = copy.deepcopy(model.state_dict())

    def by_hand(there: nn.Module) -> float:
        return sum(float(nn.functional.cross_entropy(there(x), y).detach()) for x, y in data) / 3

    trained, evaluated = copy.deepcopy(model).train(), copy.deepcopy(model).eval()
    expected = {"eval": by_hand(evaluated), "batch": by_hand(trained)}
    assert abs(expected["eval"] - expected["batch"]) > 1e-3
    for mode, loss in expected.items():
        objective = Objective(model, nn.CrossEntropyLoss(), data, mode=mode)  # type: ignore[arg-type]
        assert float(objective()) == pytest.approx(loss, rel=1e-12)
        objective.gradient(objective.theta)
        assert objective.function.batch_norm != "none in the model"
    own_statistics = [copy.deepcopy(layer) for _ in data]
    for each, (inputs, _) in zip(own_statistics, data, strict=True):
        each.momentum = 1.0
        each(inputs)
    there = Objective(model, nn.CrossEntropyLoss(), data).reestimated()
    for buffer in ("running_mean", "running_var"):
        mean = torch.stack([each.get_buffer(buffer) for each in own_statistics]).mean(0)
        torch.testing.assert_close(there.model[0].get_buffer(buffer), mean, rtol=1e-12, atol=1e-12)
    assert float(there()) == pytest.approx(by_hand(there.model.eval()), rel=1e-12)
    for buffer, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[buffer]), buffer
    assert model.training
    assert not layer._forward_pre_hooks
    assert layer.momentum == 0.1

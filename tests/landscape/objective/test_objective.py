"""The objective against the loss of all examples in one batch, computed without it."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from landscape.objective.objective import Objective
from landscape.objective.parameters import ParameterSpace


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 3)).double()


def examples(n: int = 23) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 5, dtype=torch.float64), torch.randint(3, (n,))


def uneven(x: torch.Tensor, y: torch.Tensor, sizes: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def reference(model: nn.Module, x: torch.Tensor, y: torch.Tensor):
    """L(θ) over one batch, and its dense Hessian, with the model in eval mode."""
    space = ParameterSpace.of(model)

    def loss(theta: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(model.eval(), space.unflatten(theta), (x,)), y)

    return loss


@pytest.mark.parametrize("sizes", [(23,), (16, 7), (1, 2, 3, 4, 5, 6, 2)])
def test_value_gradient_and_hessian_are_those_of_all_examples_at_once(sizes: tuple[int, ...]) -> None:
    model, (x, y) = network(), examples()
    objective = Objective(model, nn.CrossEntropyLoss(), uneven(x, y, sizes))
    loss = reference(model, x, y)
    theta = objective.theta
    torch.testing.assert_close(objective(), loss(theta), rtol=1e-13, atol=0)
    torch.testing.assert_close(objective.gradient(), torch.func.grad(loss)(theta), rtol=1e-10, atol=1e-13)
    dense = torch.func.hessian(loss)(theta)
    torch.testing.assert_close(objective.hessian().dense(), dense, rtol=1e-8, atol=1e-12)


def test_many_points_in_one_walk() -> None:
    model, (x, y) = network(), examples()
    objective = Objective(model, nn.CrossEntropyLoss(), uneven(x, y, (9, 14)))
    points = objective.theta + 0.1 * torch.randn(4, objective.size, dtype=torch.float64)
    expected = torch.stack([objective(point) for point in points])
    assert torch.equal(objective(points), expected)
    assert objective.evaluations == 8


def test_the_model_comes_out_as_it_went_in() -> None:
    model, (x, y) = network(), examples()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    objective = Objective(model, nn.CrossEntropyLoss(), [(x, y)])
    objective(), objective.gradient(), objective.hessian() @ objective.theta
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "0.weight")


def test_counters_are_exact_and_include_other_data() -> None:
    model, (x, y) = network(), examples(20)
    objective = Objective(model, nn.CrossEntropyLoss(), uneven(x, y, (12, 8)))
    objective()
    objective.gradient()
    objective.hessian() @ torch.randn(objective.size, 3, dtype=torch.float64)
    part = objective.on([(x[:5], y[:5])])
    part.gradient()
    assert (objective.evaluations, objective.gradient_evaluations, objective.hessian_products) == (1, 1.25, 3)
    assert part.gradient_evaluations == 1


def test_frozen_tied_and_unused_parameters() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.frozen, self.unused = nn.Linear(4, 2), nn.Linear(3, 3)
            self.frozen.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.frozen(self.second(torch.tanh(self.first(x))))

    model = Odd().double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    objective = Objective(model, nn.MSELoss(), uneven(x, y, (4, 2)))
    assert objective.space.names == ("first.weight", "first.bias", "second.bias", "unused.weight", "unused.bias")

    def loss(theta: torch.Tensor) -> torch.Tensor:
        w, b1, b2 = theta[:16].reshape(4, 4), theta[16:20], theta[20:24]
        return (((torch.tanh(x @ w.T + b1) @ w.T + b2) @ model.frozen.weight.T + model.frozen.bias - y) ** 2).mean()

    torch.testing.assert_close(objective.gradient(), torch.func.grad(loss)(objective.theta), rtol=1e-10, atol=1e-14)
    dense = objective.hessian().dense()
    torch.testing.assert_close(dense, torch.func.hessian(loss)(objective.theta), rtol=1e-9, atol=1e-13)
    assert not dense[24:].any()


def test_another_dtype_works_on_a_copy() -> None:
    model, (x, y) = network().float(), examples()
    objective = Objective(model, nn.CrossEntropyLoss(), [(x.float(), y)], dtype=torch.float64)
    assert objective.theta.dtype == objective.gradient().dtype == torch.float64
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_dict_batches_and_outputs_with_fields() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.head(features)}

    x, y = torch.randn(9, 5), torch.randint(3, (9,))
    model = Classifier()
    batches = [{"features": x[:4], "labels": y[:4]}, {"features": x[4:], "labels": y[4:]}]
    objective = Objective(
        model, lambda out, batch: nn.functional.cross_entropy(out["logits"], batch["labels"]), batches
    )
    expected = nn.functional.cross_entropy(model.head(x), y)
    torch.testing.assert_close(objective(), expected.detach())
    assert objective.examples == 9


def test_description_says_what_was_measured() -> None:
    model, (x, y) = network(), examples()
    description = Objective(model, nn.CrossEntropyLoss(), uneven(x, y, (16, 7))).description
    assert description["loss"] == "CrossEntropyLoss()"
    assert description["batch_norm"] == "running statistics"
    assert (description["examples"], description["batches"], description["parameters"]) == (23, 2, 80)
    assert description["weight_decay"] == "not included"
    assert description["dtype"] == "float64"


def test_bad_input_is_refused_with_the_cure() -> None:
    model, (x, y) = network(), examples()
    loss = nn.CrossEntropyLoss()
    with pytest.raises(TypeError, match="one-shot iterator"):
        Objective(model, loss, ((x, y) for _ in range(2)))
    with pytest.raises(ValueError, match="at least one batch"):
        Objective(model, loss, [])()
    with pytest.raises(ValueError, match="at least one example"):
        Objective(model, loss, [(x[:0], y[:0])])()
    with pytest.raises(ValueError, match=r"scalar tensor, got a tensor of shape \(23,\)"):
        Objective(model, nn.CrossEntropyLoss(reduction="none"), [(x, y)])()
    with pytest.raises(ValueError, match=r"expected theta of shape \(80,\)"):
        Objective(model, loss, [(x, y)])(torch.zeros(81))
    with pytest.raises(FloatingPointError, match="not finite"):
        Objective(model, loss, [(x * float("nan"), y)])()
    frozen_norm = network()
    frozen_norm[1].eval()
    with pytest.raises(ValueError, match="Dropout"):
        Objective(frozen_norm, loss, [(x, y)], mode="unchanged")
    with pytest.raises(ValueError, match="BatchNorm1d"):
        Objective(network(), loss, [(x, y)], mode="unchanged")

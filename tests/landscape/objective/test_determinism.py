"""Whatever makes the loss at one θ more than one number is refused, and the message says how to cure it."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape.objective.objective import Objective


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 4), torch.randint(3, (n,))


class Noisy(nn.Module):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.head, self.source, self.calls = nn.Linear(4, 3), source, 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.source == "dropout that ignores eval":
            x = nn.functional.dropout(x, 0.5, training=True)
        if self.source == "a counting buffer":
            self.count += 1
        if self.source == "state outside torch":
            self.calls += 1
            x = x * (1 + 0.1 * (self.calls % 2))
        return self.head(x)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("dropout that ignores eval", "draws random numbers"),
        ("a counting buffer", "changes the buffers count"),
        ("state outside torch", "two evaluations of one batch"),
    ],
)
def test_a_loss_that_is_not_one_function_is_refused(source: str, message: str) -> None:
    model = Noisy(source)
    objective = Objective(model, nn.CrossEntropyLoss(), [data()])
    state = torch.get_rng_state()
    for operator in (objective.hessian, objective.ggn, objective.fisher):
        with pytest.raises(ValueError, match=message):
            operator()
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.count


def test_a_shuffling_loader_is_refused_and_a_list_of_it_taken() -> None:
    model, dataset = nn.Linear(4, 3), TensorDataset(*data(40))
    loader = DataLoader(dataset, batch_size=8, shuffle=True)
    with pytest.raises(ValueError, match="shuffle=False"):
        Objective(model, nn.CrossEntropyLoss(), loader).hessian()
    Objective(model, nn.CrossEntropyLoss(), list(loader)).hessian()
    Objective(model, nn.CrossEntropyLoss(), DataLoader(dataset, batch_size=8)).hessian()


def test_training_mode_is_refused_where_it_is_random_and_taken_where_it_is_not() -> None:
    loss = nn.CrossEntropyLoss()
    for layer in (nn.Dropout(0.1), nn.BatchNorm1d(4), nn.RReLU()):
        model = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3))
        with pytest.raises(ValueError, match=r'training mode.*mode="eval"'):
            Objective(model, loss, [data()], mode="unchanged")
        Objective(model, loss, [data()]).hessian()
        Objective(model.eval(), loss, [data()], mode="unchanged").hessian()
    harmless = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0), nn.LayerNorm(4), nn.Linear(4, 3))
    Objective(harmless, loss, [data()], mode="unchanged").hessian()


def test_a_loss_that_is_nan_says_so() -> None:
    x, y = data()
    x[3, 1] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), [(x, y)]).hessian() @ torch.ones(15)

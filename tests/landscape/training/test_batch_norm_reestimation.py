"""Running statistics at the weights that are evaluated: equal to those of all data, and nothing else touched."""

import torch
from torch import nn

from landscape.training.running_statistics import reestimate


def test_statistics_are_those_of_the_data() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2), nn.BatchNorm1d(2)
    ).double()
    inputs = torch.randn(60, 3, dtype=torch.float64)
    model(inputs * 5)  # running statistics of something else
    model[4].eval()
    random = torch.get_rng_state()
    reestimate(model, [inputs])
    hidden = model[0](inputs)
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))
    assert torch.equal(random, torch.get_rng_state())  # dropout drew nothing
    assert [m.training for m in model] == [True, True, True, True, False]
    assert model[1].momentum == 0.1


def test_the_average_is_over_batches_and_forgets_the_past() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2)).double()
    batches = [torch.randn(10, 2, dtype=torch.float64) + i for i in range(3)]
    reestimate(model, batches)
    once = model[0].running_mean.clone()
    torch.testing.assert_close(once, torch.stack([b.mean(0) for b in batches]).mean(0))
    reestimate(model, batches)
    assert torch.equal(model[0].running_mean, once)
    assert model[0].num_batches_tracked == 3

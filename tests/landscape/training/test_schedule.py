"""The learning rate against torch's own schedulers and the formula's corner points."""

from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from landscape.experiment import Experiment
from landscape.training.schedule import build_schedule, learning_rate_factor


def test_without_warmup_it_is_torchs_cosine() -> None:
    ours, theirs = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3) for _ in range(2))
    experiment = Experiment(lr=0.3, epochs=4, warmup_epochs=0)
    schedules = build_schedule(experiment, ours, 5), CosineAnnealingLR(theirs, T_max=20)
    for _ in range(20):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        for optimizer, schedule in zip((ours, theirs), schedules, strict=True):
            optimizer.step()
            schedule.step()


def test_the_ramp_ends_at_the_peak_and_the_first_step_moves() -> None:
    factors = [learning_rate_factor(t, steps=20, warmup=5, schedule="constant") for t in range(20)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(factors[5:]) == {1.0}
    cosine = [learning_rate_factor(t, steps=20, warmup=5, schedule="cosine") for t in range(21)]
    assert cosine[5] == 1.0
    assert cosine[20] == pytest.approx(0.0, abs=1e-15)
    assert all(a >= b for a, b in pairwise(cosine[5:]))


def test_all_warmup_is_no_division_by_zero() -> None:
    assert learning_rate_factor(5, steps=5, warmup=5, schedule="cosine") == 1.0

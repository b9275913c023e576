"""Named streams are independent and repeatable; the recorder keeps order and steps, and waits for nothing."""

import random

import numpy as np
import torch

from landscape.seeding import generator, global_state, isolated, seed_of, set_global_state
from landscape.training.recorder import Recorder


def draws() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()  # noqa: NPY002


def test_a_stream_is_a_function_of_seed_name_and_index() -> None:
    assert torch.equal(torch.rand(4, generator=generator(1, "a")), torch.rand(4, generator=generator(1, "a")))
    seeds = {seed_of(seed, name, index) for seed in range(3) for name in ("a", "b") for index in range(3)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_isolated_code_draws_its_own_numbers_and_leaves_the_callers() -> None:
    before = global_state(torch.device("cpu"))
    with isolated(3, "x"):
        first = draws()
    outside = draws()
    set_global_state(before, torch.device("cpu"))
    assert draws() == outside
    with isolated(3, "x"):
        assert draws() == first


def test_isolated_restores_after_an_exception() -> None:
    before = torch.get_rng_state()
    try:
        with isolated(3, "x"):
            draws()
            raise ValueError
    except ValueError:
        pass
    assert torch.equal(before, torch.get_rng_state())


def test_series_keep_their_own_steps() -> None:
    recorder = Recorder()
    for step in range(6):
        recorder.record(step, loss=torch.tensor(float(step)))
        if step % 3 == 0:
            recorder.record(step, probe=2.0 * step)
    np.testing.assert_array_equal(recorder.fetch("loss")[1], np.arange(6))
    recorder.record(6, loss=torch.tensor(6.0))  # after a fetch it goes on
    series = recorder.flush()
    np.testing.assert_array_equal(series["loss"][0], np.arange(7))
    np.testing.assert_array_equal(series["loss"][1], np.arange(7))
    np.testing.assert_array_equal(series["probe"][0], [0, 3])
    np.testing.assert_array_equal(series["probe"][1], [0, 6])
    assert recorder.flush() == {}


def test_what_is_recorded_is_not_what_it_becomes() -> None:
    recorder = Recorder()
    value = torch.ones((), requires_grad=True)
    recorder.record(0, loss=value * 2)
    assert recorder.flush()["loss"][1].tolist() == [2.0]

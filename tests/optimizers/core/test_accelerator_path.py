"""The path of an accelerator, where masks take the place of branches, on the CPU: the contract there, and operations counted.

The switch is `norms.on_host`: it says whether reading a flag waits for nothing.
"""

import pytest
import test_optimizer_contract as contract
import test_optimizer_precision as precision
import torch
from optimizer_training import LOOK_INTO_THE_BATCH, METHODS, create, over_methods
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import optimizers
from optimizers.core import norms

PATHS = {"host": True, "accelerator": False}


@pytest.fixture
def on_accelerator(monkeypatch):
    monkeypatch.setattr(norms, "on_host", lambda flag: False)


# What masks and averages could do differently. These are the contract's own tests; where it takes many bases, here SGD.

OVER_BASES = [
    contract.test_steps_of_length_zero_change_nothing,
    contract.test_resumed_equals_uninterrupted,
    contract.test_rho_zero_is_the_base_optimizer,
    contract.test_perturbation_has_length_rho_and_asking_changes_nothing,
    precision.test_maximising_the_negative_loss_is_minimising_the_loss,
]
OVER_METHODS = [
    contract.test_gradients_that_come_and_go_leak_nothing,
    contract.test_a_gradient_of_zero_perturbs_nothing,
    contract.test_scaled_gradients_take_the_same_steps,
    contract.test_the_scaler_skips_a_step_that_overflowed_and_goes_on,
    contract.test_the_scaler_drives_closure_free_steps,
]


@pytest.mark.usefixtures("on_accelerator")
@pytest.mark.parametrize("law", OVER_BASES, ids=lambda law: law.__name__.removeprefix("test_"))
@over_methods
def test_the_contract_over_sgd(method, law):
    law(method, "sgd")


@pytest.mark.usefixtures("on_accelerator")
@pytest.mark.parametrize("law", OVER_METHODS, ids=lambda law: law.__name__.removeprefix("test_"))
@over_methods
def test_the_contract(method, law):
    law(method)


@pytest.mark.usefixtures("on_accelerator")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
@over_methods
def test_what_is_not_finite_does_not_spread(method, at, value):
    contract.test_a_gradient_that_is_not_finite_does_not_spread(method, at, value)


@pytest.mark.usefixtures("on_accelerator")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@over_methods
def test_half_precision(method, dtype):
    precision.test_a_small_gradient_is_climbed_along_in_half_precision(method, dtype)


# Operations, each of which is a kernel on an accelerator


class Operations(TorchDispatchMode):
    """Counts the operations that are dispatched, those of closures left out."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.paused = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not self.paused and function is not torch.ops.aten.detach.default:  # a view, no kernel
            self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def operations(make, layers, number=12):
    """How many each of so many steps takes, over a model of so many layers of a weight and a bias."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.LayerNorm(3) for _ in range(layers)])
    parameters = list(model.parameters())
    optimizer = make(torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=True))
    mode, counts = Operations(), []

    def closure():
        mode.paused = True
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        mode.paused = False
        return 0.0

    for _ in range(number):
        mode.names.clear()
        with mode:
            optimizer.step(closure)
        counts.append(len(mode.names))
    return counts


@pytest.mark.parametrize("on_host", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("method", [method for method in METHODS if method not in LOOK_INTO_THE_BATCH])
def test_a_step_takes_as_many_operations_more_for_each_parameter(method, on_host, monkeypatch):
    """None is taken for every pair of parameters; a closure that knows its batch is left out, for its passes count too."""
    monkeypatch.setattr(norms, "on_host", lambda flag: on_host)
    few, more, most = (operations(lambda base: create(method, base), layers, 7) for layers in (1, 2, 3))
    growth = [[b - a for a, b in zip(*pair, strict=True)] for pair in ((few, more), (more, most))]
    assert growth[0] == growth[1]
    assert all(number % 2 == 0 or optimizers.describe(method).reads_layers for number in growth[0])


# Of a step that climbs, its operations at no parameter and for each one; and of one that does not.
ENGINES = {
    "Steepest": ({}, {"host": (28, 3), "accelerator": (28, 4)}),
    "Momentum": ({"direction": optimizers.Momentum}, {"host": (28, 3), "accelerator": (28, 4)}),
    "SurrogateGap": ({"reuse": optimizers.SurrogateGap}, {"host": (60, 12), "accelerator": (60, 15)}),
    "DecayedPSF": ({"reuse": optimizers.DecayedPSF}, {"host": (52, 4), "accelerator": (52, 7)}),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("engine", ENGINES)
def test_operations_of_a_step(engine, path, monkeypatch):
    monkeypatch.setattr(norms, "on_host", lambda flag: PATHS[path])
    axes, expected = ENGINES[engine]

    def make(base):
        return optimizers.SharpnessAware(base, **{axis: choice() for axis, choice in axes.items()})

    two, five = (operations(make, layers)[-1] for layers in (2, 5))
    each = (five - two) / 6
    assert (two - 4 * each, each) == expected[path]


@pytest.mark.parametrize("path", PATHS)
def test_a_step_that_does_not_climb_takes_as_many_operations_for_any_number_of_parameters(path, monkeypatch):
    monkeypatch.setattr(norms, "on_host", lambda flag: PATHS[path])
    few, many = (
        operations(lambda base: optimizers.SharpnessAware(base, policy=optimizers.EveryK(3)), layers)
        for layers in (2, 20)
    )
    assert few[4] == many[4] == few[5] == many[5]
    assert few[3] < many[3]

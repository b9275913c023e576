"""What promises to leave the caller alone leaves every random generator alone, those of accelerators included.

Two accelerators of each kind are simulated: modules with torch's interface whose generators live on the CPU.
"""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from every_analysis import second
from torch import Tensor, nn

import analyses
from landscape import data, models
from landscape.data import Data, Split
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.objective.objective import Objective
from landscape.running_statistics import gather
from landscape.runs.run import Checkpoint
from landscape.seeding import isolated
from landscape.training import probes
from landscape.training.training import train
from optimizers import create

SMALL = Experiment(
    data_options={"train_examples": 60}, model_options={"widths": [6], "dropout": 0.3, "batch_norm": True}, epochs=1
)


PRIVATE = SimpleNamespace()  # one for all tests: `torch.get_device_module` remembers what it found


class Accelerator:
    """Generators of two devices behind the interface of `torch.cuda`."""

    def __init__(self, kind: str, started: bool = True) -> None:
        self.kind, self.started = kind, started
        self.generators = [torch.Generator().manual_seed(10 + index) for index in range(2)]
        self.reseeded = 0

    def get_rng_state(self, device: Any = 0) -> Tensor:
        self.started = True
        return self.generators[torch.device(device).index or 0].get_state()

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        self.generators[torch.device(device).index or 0].set_state(state)

    def manual_seed_all(self, seed: int) -> None:
        self.reseeded += 1
        for generator in self.generators:
            generator.manual_seed(seed)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        simulated = {
            "is_initialized": lambda: self.started,
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "get_rng_state": self.get_rng_state,
            "set_rng_state": self.set_rng_state,
            "manual_seed": self.manual_seed_all,
            "manual_seed_all": self.manual_seed_all,
            "_is_in_bad_fork": lambda: False,
        }
        if self.kind == "privateuseone":
            vars(PRIVATE).update(simulated)
            patch.setattr(torch, self.kind, PRIVATE, raising=False)
            return
        for name in ("is_initialized", "get_rng_state", "set_rng_state", "manual_seed", "manual_seed_all"):
            patch.setattr(getattr(torch, self.kind), name, simulated[name])
        patch.setattr(getattr(torch, self.kind), "device_count", simulated["device_count"])


@pytest.fixture
def accelerators(monkeypatch: pytest.MonkeyPatch) -> list[Accelerator]:
    found = [Accelerator(kind) for kind in ("cuda", "xpu", "privateuseone")]
    for each in found:
        each.install(monkeypatch)
    return found


def fingerprint(accelerators: list[Accelerator]) -> tuple[Any, ...]:
    """Of every global generator."""
    devices = [generator.get_state().numpy().tobytes() for each in accelerators for generator in each.generators]
    numpy = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), numpy[1].tobytes(), numpy[2:], random.getstate(), tuple(devices)


def careless_data() -> Data:
    """Draws from every global generator, as anybody's factory may."""
    random.random()
    inputs = torch.randn(40, 3) * float(np.random.rand())  # noqa: NPY002
    half = Split(inputs, torch.randint(2, (40,)))
    return Data(half, half, classes=2)


def careless_model(classes: int) -> nn.Module:
    """Draws from NumPy's and Python's generators too."""
    model = nn.Linear(3, classes)
    with torch.no_grad():
        model.bias.fill_(random.random() * float(np.random.rand()))  # noqa: NPY002
    return model


CARELESS = Experiment(data=f"{__name__}:careless_data", model=f"{__name__}:careless_model", epochs=1, batch_size=20)
NEEDED: dict[str, dict[str, Any]] = {
    "m_sharpness": {"m": (1, 4)},
    "loss_surface": {"points": 3},
    "spectral_density": {"outliers": 2},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train(SMALL, tmp_path_factory.mktemp("run"), progress=False).checkpoint("last")


def inside(checkpoint: Checkpoint) -> None:
    with isolated(3, "x"):
        torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002


def built(checkpoint: Checkpoint) -> None:
    for experiment in (SMALL, CARELESS):
        models.build(experiment, data.load(experiment))


def probed(checkpoint: Checkpoint) -> None:
    model = checkpoint.model().train()
    inputs, targets = (part[:20] for part in (checkpoint.data().train.inputs, checkpoint.data().train.targets))
    optimizer = create("msam", torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    probes.probe(model, lambda: nn.functional.cross_entropy(model(inputs), targets), optimizer, 0.1, 0.1)


def asked(checkpoint: Checkpoint) -> None:
    objective = checkpoint.objective()
    theta = objective.theta
    objective(), objective.gradient(), objective.hessian() @ theta, objective.ggn() @ theta, objective.fisher() @ theta


CALLS: dict[str, Callable[[Checkpoint], Any]] = {
    "isolated": inside,
    "data.load and models.build": built,
    "Checkpoint.model": lambda checkpoint: checkpoint.model(),
    "Checkpoint.objective and its questions": asked,
    "probe": probed,
    "gather": lambda checkpoint: gather(checkpoint.model(), [checkpoint.data().train.inputs]),
    "Objective.reestimated": lambda checkpoint: checkpoint.objective().reestimated(),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_generator_is_where_it_was(call: str, checkpoint: Checkpoint, accelerators: list[Accelerator]) -> None:
    before = fingerprint(accelerators)
    CALLS[call](checkpoint)
    assert fingerprint(accelerators) == before


@pytest.mark.parametrize("optimizer", ["sam", "random"])  # the second draws directions
def test_training_leaves_every_generator(tmp_path: Path, accelerators: list[Accelerator], optimizer: str) -> None:
    before = fingerprint(accelerators)
    train(SMALL.replace(optimizer=optimizer), tmp_path / "run", execution=Execution(probe_every=1), progress=False)
    with pytest.raises(ValueError, match="first steps"):
        train(SMALL.replace(base="torch.optim:LBFGS"), tmp_path / "wrong", progress=False)
    assert fingerprint(accelerators) == before


@pytest.mark.parametrize("name", analyses.available())
def test_analyses_leave_every_generator(name: str, accelerators: list[Accelerator]) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).double()
    batch = torch.randn(8, 3, dtype=torch.float64), torch.randint(2, (8,))
    objective = Objective(model, nn.CrossEntropyLoss(), [batch] * 2)
    options = dict(NEEDED.get(name, {}))
    if "momentum" in analyses.get(name).options:
        options["momentum"] = torch.ones(objective.size, dtype=torch.float64)
    if "other" in analyses.get(name).options:
        options["other"] = second(objective)
    before = fingerprint(accelerators)
    analyses.get(name)(objective, **options)
    assert fingerprint(accelerators) == before


def test_an_accelerator_that_is_not_in_use_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor seeded for later: torch keeps such a seed and applies it over the caller's when the device starts."""
    idle = [Accelerator(kind, started=False) for kind in ("cuda", "xpu", "privateuseone")]
    for each in idle:
        each.install(monkeypatch)
    inside(None)  # type: ignore[arg-type]
    assert [(each.reseeded, each.started) for each in idle] == [(0, False)] * 3


@pytest.mark.parametrize("kind", ["cuda", "xpu", "privateuseone"])
def test_processes_draw_different_masks_on_their_accelerators(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of a training: the process's own stream, then the model, initialised alike everywhere."""
    masks, weights = [], []
    for rank in range(2):
        accelerator = Accelerator(kind, started=False)
        accelerator.install(monkeypatch)
        with isolated(0, f"training of process {rank}", f"{kind}:1"):
            weights.append([p.detach() for p in models.build(SMALL, data.load(SMALL)).parameters()])
            masks.append([torch.rand(8, generator=generator) for generator in accelerator.generators])
        untouched = [torch.Generator().manual_seed(10 + index).get_state() for index in range(2)]
        assert all(torch.equal(g.get_state(), s) for g, s in zip(accelerator.generators, untouched, strict=True))
    assert not torch.equal(masks[0][1], masks[1][1])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_data_of_a_careless_factory_are_the_same_each_time() -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    first, again = data.load(CARELESS), data.load(CARELESS.replace(seed=3))
    assert torch.equal(first.train.inputs, again.train.inputs)

"""A measurement leaves everything as it was, whatever the model's forward pass and the loader do: the law over all
public calls of an objective and all analyses of one.
"""

import random

import numpy as np
import pytest
import torch
from every_analysis import second
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import analyses
from landscape.objective.objective import Objective


class Observing(nn.Module):
    """Writes its buffers in every forward pass, in each of the ways there are; `writes` says in which."""

    def __init__(self, writes: str) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)
        self.second, self.writes = nn.Linear(5, 3), writes
        self.register_buffer("largest", torch.zeros(5), persistent=writes != "in place")
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        found = h.detach().abs().amax(0)
        if self.writes == "in place":
            self.largest.copy_(torch.maximum(self.largest, found))
            self.scale.add_(1)
        if self.writes == "anew":
            self.largest = torch.maximum(self.largest, found)
        if self.writes == "one more":
            self.register_buffer("cache", found)
        if self.writes == "an observer":
            h = torch.clamp(h, max=self._observed(found))
        return self.second(self.drop(torch.tanh(self.norm(h))))

    def _observed(self, found: Tensor) -> Tensor:
        self.scale.copy_(torch.maximum(self.scale, found.max()))
        return self.scale


def surroundings(model: nn.Module, loader: DataLoader) -> dict[str, object]:
    """All that a measurement could disturb; tensors as copies."""
    found: dict[str, object] = {
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "names": [list(m._buffers) + list(m._parameters) + list(m._modules) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "identities": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "requires": [p.requires_grad for p in model.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "loader": torch.tensor(0) if loader.generator is None else loader.generator.get_state(),
        "grad enabled": torch.is_grad_enabled(),
    }
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[name] = tensor.detach().clone()
        found[f"{name}.grad"] = None if tensor.grad is None else tensor.grad.clone()
    return found


def problem(writes: str = "nothing", *, own: bool = False) -> tuple[Objective, DataLoader]:
    torch.manual_seed(0)
    model = Observing(writes)
    x, y = torch.randn(22, 4), torch.randint(3, (22,))
    loader = DataLoader(TensorDataset(x, y), batch_size=8, generator=torch.Generator() if own else None)
    model.first.weight.grad = torch.ones(5, 4)
    model.norm.eval()
    return Objective(model, nn.CrossEntropyLoss(), loader), loader


CALLS = {
    "value": lambda o: o(),
    "values": lambda o: o(torch.stack([o.theta, o.theta + 0.1])),
    "gradient": lambda o: o.gradient(o.theta + 0.1),
    "hessian": lambda o: o.hessian(o.theta + 0.1) @ o.theta,
    "recomputed": lambda o: o.hessian(way="recomputed") @ o.theta,
    "forward over reverse": lambda o: o.hessian(way="forward over reverse") @ o.theta,
    "finite differences": lambda o: o.hessian(way="finite differences") @ o.theta,
    "ggn": lambda o: o.ggn() @ o.theta,
    "fisher": lambda o: o.fisher() @ o.theta,
    "empirical fisher": lambda o: o.fisher(kind="empirical") @ o.theta,
    "on": lambda o: o.on(list(o.batches)[:1]).gradient(),
    "restricted": lambda o: o.restricted("second").gradient(),
    "description": lambda o: (o.description, o.theta, o.examples, o.local_examples, o.weight, o.size),
}
OPTIONS = {  # small enough for a test
    "spectral_density": {"probes": 2, "nodes": 8, "outliers": 0},
    "loss_surface": {"points": 3},
    "trace": {"max_products": 10},
    "diagonal": {"max_products": 10},
    "curvature_along": {"directions": ["gradient"]},
}


def require_untouched(before: dict[str, object], objective: Objective, loader: DataLoader, call: str) -> None:
    after = surroundings(objective.model, loader)
    assert before.keys() == after.keys()
    for key, value in before.items():
        equal = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert equal, f"{call} disturbs {key}"


@pytest.mark.parametrize("own", [False, True], ids=["global generator", "loader's generator"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_leaves_everything_as_it_was(call: str, own: bool) -> None:
    objective, loader = problem(own=own)
    before = surroundings(objective.model, loader)
    for _ in range(2):
        CALLS[call](objective)
        require_untouched(before, objective, loader, call)


@pytest.mark.parametrize("analysis", analyses.available())
def test_every_analysis_leaves_everything_as_it_was(analysis: str) -> None:
    objective, loader = problem()
    options = dict(OPTIONS.get(analysis, {}))
    if "other" in analyses.get(analysis).options:  # between two points no running statistics fit
        objective = Objective(objective.model, objective.loss_fn, loader, mode="batch")
        options["other"] = second(objective)
    before = surroundings(objective.model, loader)
    getattr(analyses, analysis)(objective, **options)
    require_untouched(before, objective, loader, analysis)


@pytest.mark.parametrize("writes", ["in place", "anew", "one more", "an observer"])
@pytest.mark.parametrize("call", CALLS)
def test_buffers_that_a_forward_pass_writes(call: str, writes: str) -> None:
    """Losses and gradients are those at the buffers the model has, and curvature is refused; nothing stays written."""
    objective, loader = problem(writes)
    before = surroundings(objective.model, loader)
    try:
        found = CALLS[call](objective)
        assert call in ("value", "values", "gradient", "on", "restricted", "description") or writes == "one more"
        if isinstance(found, Tensor):
            assert torch.equal(found, CALLS[call](objective))
    except ValueError as refusal:
        assert "changes the buffers" in str(refusal)  # noqa: PT017
    require_untouched(before, objective, loader, call)


@pytest.mark.parametrize("call", [*CALLS, "m_sharpness", "directional_sharpness", "loss_surface", "psf"])
@pytest.mark.parametrize("loader", ["shuffled", "augmented"])
def test_batches_that_differ_from_walk_to_walk_are_refused_for_losses_too(loader: str, call: str) -> None:
    class Augmented(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            x, y = super().__getitem__(index)
            return x + 0.1 * torch.randn(4), y

    kind = Augmented if loader == "augmented" else TensorDataset
    data = DataLoader(kind(torch.randn(20, 4), torch.randint(3, (20,))), batch_size=8, shuffle=loader == "shuffled")
    objective = Objective(Observing("nothing"), nn.CrossEntropyLoss(), data)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"differ from one walk to the next.*shuffle=False"):
        CALLS.get(call, getattr(analyses, call, None))(objective)
    assert torch.equal(state, torch.get_rng_state())


def test_a_loader_that_changes_between_calls_is_refused() -> None:
    data = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)]

    class Growing:
        def __iter__(self):
            return iter(data)

    objective = Objective(Observing("nothing"), nn.CrossEntropyLoss(), Growing())
    objective()
    data.append(data[0])
    with pytest.raises(ValueError, match="expected 2 of them, got more"):
        objective()
    del data[1:]
    with pytest.raises(ValueError, match="expected 2 of them, got fewer"):
        objective()
    data.insert(0, (torch.randn(8, 4), data[0][1]))
    with pytest.raises(ValueError, match="differ from one walk"):
        objective()


def test_a_random_loss_is_refused_for_values_too() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(x, 0.5))

    objective = Objective(Noisy(4, 3), nn.CrossEntropyLoss(), [(torch.randn(8, 4), torch.randint(3, (8,)))])
    state = torch.get_rng_state()
    for call in (Objective.__call__, Objective.gradient, analyses.m_sharpness):
        with pytest.raises(ValueError, match="draws random numbers"):
            call(objective)
    assert torch.equal(torch.get_rng_state(), state)

"""The same methods in pytorch_optimizer: equal where it is right, and what differs where it is not, measured in 4.1.0."""

import inspect

import pytest
import pytorch_optimizer
import torch
from optimizer_problems import quadratic
from pytorch_optimizer.optimizer import sam as peer_module
from torch import nn

import optimizers

STEPS = 100


class Whole(nn.Module):
    """One tensor, so that norms per tensor and global norms are the same."""

    def __init__(self, start):
        super().__init__()
        self.vector = nn.Parameter(start.clone())


class Halves(nn.Module):
    """Two tensors."""

    def __init__(self, start):
        super().__init__()
        self.head, self.tail = nn.Parameter(start[:3].clone()), nn.Parameter(start[3:].clone())

    @property
    def vector(self):
        return torch.cat([self.head, self.tail])


def path(make, model_class=Halves, *, peer):
    """Weights after each step, and how often the closure was called. A peer wants the first pass before `step`."""
    problem = quadratic()
    model = model_class(problem.start)
    optimizer = make(list(model.parameters()))
    weights, calls = [], 0
    for batch in range(STEPS):

        def closure(batch=batch):
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss = problem.loss(model.vector, batch)
            loss.backward()
            return loss

        if peer:
            closure()
        optimizer.step(closure)
        weights.append(model.vector.detach().clone())
    return torch.stack(weights), calls


@pytest.fixture
def double_norm(monkeypatch):
    """Their global norm is taken in float32 whatever the parameters are; in float64 the rest can be compared closely."""

    def squared(param_groups, device=None, *, weight_adaptive=False):
        gradients = [p.grad for group in param_groups for p in group["params"] if p.grad is not None]
        return sum(gradient.square().sum() for gradient in gradients).reshape(1)

    monkeypatch.setattr(peer_module, "get_global_gradient_norm", squared)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01)


def theirs(name, **options):
    shared = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    return lambda p: getattr(pytorch_optimizer, name)(p, base_optimizer=torch.optim.SGD, **shared, **options)


@pytest.mark.parametrize(
    ("ours", "their"),
    [
        (lambda p: optimizers.SAM(sgd(p), rho=0.1), theirs("SAM", rho=0.1)),
        (lambda p: optimizers.FSAM(sgd(p), rho=0.1, lmbda=0.8, sigma=0.7, previous=True),
         theirs("FriendlySAM", rho=0.1, lmbda=0.8, sigma=0.7)),
    ],
    ids=["SAM", "F-SAM in the form of the authors' code"],
)  # fmt: skip
def test_equal_trajectories(ours, their, double_norm):
    expected, calls = path(their, peer=True)
    actual, own_calls = path(ours, peer=False)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    assert calls == own_calls == 2 * STEPS


def test_their_norm_is_single_precision_for_double_parameters():
    expected, _ = path(theirs("SAM", rho=0.1), peer=True)
    actual, _ = path(lambda p: optimizers.SAM(sgd(p), rho=0.1), peer=False)
    assert 1e-10 < (actual - expected).abs().max() < 1e-6


LOOKSAM = {"rho": 0.1, "k": 5, "alpha": 0.7}


class Padded(optimizers.Orthogonal):
    """LookSAM's reuse as theirs has it: d = g + α (‖g‖/(‖g_v‖ + 1e-8)) g_v."""

    def after_ascent(self, step):
        super().after_ascent(step)
        step.later(self)["length"] += 1e-8


def padded(parameters):
    return optimizers.LookSAM(sgd(parameters), rho=0.1, k=5, reuse=Padded(alpha=0.7))


def test_looksam_is_theirs_on_one_tensor_for_fewer_gradients(double_norm):
    """With their 1e-8 beside ‖g_v‖. Theirs takes two gradients on every step; the reuse steps of ours really take one."""
    expected, calls = path(theirs("LookSAM", **LOOKSAM, perturb_eps=0.0), Whole, peer=True)
    actual, own_calls = path(padded, Whole, peer=False)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    assert calls == 2 * STEPS
    assert own_calls == STEPS + STEPS // 5


def test_looksam_divides_by_the_length_itself(double_norm):
    """Without that 1e-8 the first reuse step is longer by η α ‖g‖ · 1e-8/‖g_v‖; from there on the trajectories part."""
    expected, _ = path(theirs("LookSAM", **LOOKSAM, perturb_eps=0.0), Whole, peer=True)
    actual, _ = path(lambda p: optimizers.LookSAM(sgd(p), **LOOKSAM), Whole, peer=False)
    problem = quadratic()
    start, then = problem.gradient(problem.start, 0), problem.gradient(actual[0], 1)
    perturbed = problem.gradient(problem.start + 0.1 * start / start.norm(), 0)
    across = perturbed - (perturbed @ start) / (start @ start) * start
    torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=1e-14)
    longer = float((actual[1] - expected[1]).norm())
    assert longer == pytest.approx(0.05 * 0.7 * float(then.norm()) * 1e-8 / float(across.norm()), rel=1e-5)
    assert 1e-6 < (actual - expected).abs().max() < 1e-4


def test_looksam_takes_global_norms_where_theirs_are_of_each_tensor():
    """Liu et al. decompose the whole gradient; tensor by tensor, each small layer gets as long an addition as it likes."""
    expected, _ = path(theirs("LookSAM", **LOOKSAM), peer=True)
    actual, _ = path(padded, peer=False)
    assert (actual - expected).abs().max() > 1e-3


def test_wsam_is_theirs_with_coupled_sharpness(double_norm):
    """Equal with `decouple=False`; their default takes the sharpness out of the base optimizer, a variant of its own."""
    problem, weights = quadratic(), []
    for ours in (True, False):
        model = Halves(problem.start)
        parameters = list(model.parameters())
        if ours:
            optimizer = optimizers.WSAM(sgd(parameters), rho=0.1, gamma=0.8)
        else:
            options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "decouple": False}
            optimizer = pytorch_optimizer.WSAM(model, parameters, torch.optim.SGD, rho=0.1, gamma=0.8, **options)
        for batch in range(STEPS):

            def closure(optimizer=optimizer, model=model, batch=batch):
                optimizer.zero_grad()
                loss = problem.loss(model.vector, batch)
                loss.backward()
                return loss

            if not ours:
                closure()
            optimizer.step(closure)
        weights.append(model.vector.detach())
    torch.testing.assert_close(*weights, rtol=0, atol=1e-10)


def test_their_closure_is_not_that_of_torch():
    """torch's `step(closure)` computes everything by itself and returns the loss; theirs wants gradients beforehand."""
    parameter = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def losses_of(optimizer):
        def closure():
            optimizer.zero_grad()
            loss = parameter.square().sum()
            loss.backward()
            return loss

        return optimizer.step(closure)

    assert losses_of(theirs("SAM")([parameter])) is None
    parameter.grad = None
    assert losses_of(optimizers.SAM(sgd([parameter]))) is not None


def test_their_second_pass_moves_the_running_statistics():
    """Two batches are counted a step; ours counts one. Their examples leave the freezing to the user."""
    counted = []
    for peer in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        make = theirs("SAM") if peer else lambda p: optimizers.SAM(sgd(p))
        optimizer = make(list(model.parameters()))

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 3)).square().mean()
            loss.backward()
            return loss

        if peer:
            closure()
        optimizer.step(closure)
        counted.append(int(model[1].num_batches_tracked))
    assert counted == [2, 1]


def test_their_perturbation_spreads_one_infinity_to_everything():
    """ε = 0 · ∞ is not a number: the second pass is lost. Ours skips the ascent, says so, and steps on the clean weights."""
    finite = []
    for make in (theirs("SAM"), lambda p: optimizers.SAM(sgd(p))):
        first = nn.Parameter(torch.ones(3, dtype=torch.float64))
        second = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = make([first, second])
        calls = 0

        def closure(first=first, second=second, optimizer=optimizer):
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss = (first * second).sum() ** 2
            loss.backward()
            if calls == 1:
                first.grad[0] = torch.inf
            return loss

        if isinstance(optimizer, pytorch_optimizer.SAM):
            closure()
        optimizer.step(closure)
        finite.append(bool(first.isfinite().all() and second.isfinite().all()))
    assert finite == [False, True]
    assert optimizer.skipped_ascents == 1


def test_measured_version():
    """The differences above were seen in this version; a newer one may have mended them, and then the tests say so."""
    assert "momentum.lerp_(raw_grad" in inspect.getsource(pytorch_optimizer.FriendlySAM)

"""Identities between methods, and with formulas: each ties a variant to something known from elsewhere."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_problems import BASES, LogisticBatches, Recursion, Vector, quadratic, trajectory
from optimizer_training import Smooth, Training, create, same

import optimizers
from optimizers import SharpnessAware

CLOSE = {"rtol": 0, "atol": 1e-12}


def path(make, base="sgd", steps=30):
    return trajectory(make, base, quadratic(), steps)


def test_friendly_sam_is_the_same_in_both_forms_at_sigma_one():
    paper = path(lambda b: optimizers.FSAM(b, rho=0.1, lmbda=0.8))
    code = path(lambda b: optimizers.FSAM(b, rho=0.1, lmbda=0.8, previous=True))
    torch.testing.assert_close(paper, code, rtol=0, atol=1e-10)


def test_unnormalised_momentum_perturbation_tied_to_the_learning_rate_is_nesterov():
    """With ε = −ημ v: v' = μv + ∇L(w − ημv), Nesterov's own form, here on a quadratic without weight decay."""
    lr, mu, problem = 0.05, 0.9, quadratic()
    make = lambda b: SharpnessAware(  # noqa: E731
        b, rho=lr * mu, direction=optimizers.Momentum(), metric=optimizers.Unnormalized()
    )
    BASES["undecayed"] = lambda p: torch.optim.SGD(p, lr=lr, momentum=mu)
    try:
        ours = trajectory(make, "undecayed", problem, 30)
    finally:
        del BASES["undecayed"]
    w, v, expected = problem.start.clone(), torch.zeros_like(problem.start), []
    for batch in range(30):
        v = mu * v + problem.gradient(w - lr * mu * v, batch)
        w = w - lr * v
        expected.append(w)
    torch.testing.assert_close(ours, torch.stack(expected), **CLOSE)


def test_msam_with_the_authors_weight_decay_is_their_recursion():
    """Theirs: coupled weight decay at w + ε, in the very gradient that feeds the momentum."""
    rho, lr, mu, decay, problem = 0.5, 0.05, 0.9, 0.01, quadratic()
    ours = path(lambda b: optimizers.MSAM(b, rho=rho, weight_decay_at="perturbed"))
    w, v, expected = problem.start.clone(), None, []
    for batch in range(30):
        there = w if v is None else w - rho * v / v.norm()
        g = problem.gradient(there, batch) + decay * there
        v = g if v is None else mu * v + g
        w = w - lr * v
        expected.append(w)
    torch.testing.assert_close(ours, torch.stack(expected), **CLOSE)
    assert (ours - path(lambda b: optimizers.MSAM(b, rho=rho))).abs().max() > 1e-6
    with pytest.raises(ValueError, match="got AdamW"):
        optimizers.MSAM(torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]), weight_decay_at="perturbed")


@pytest.mark.parametrize("radii", [(0.3, 0.3), (0.3, 0.7)])
def test_second_order_sam_is_autograd_through_the_ascent(radii):
    """With one ρ, and with one for each group of three weights."""
    problem = LogisticBatches()
    model, rho = problem.model(), torch.tensor(radii, dtype=torch.float64).repeat_interleave(3)
    groups = [{"params": [p], "rho": r} for p, r in zip(model.parameters(), radii, strict=True)]
    optimizer = optimizers.SecondOrderSAM(torch.optim.SGD(groups, lr=0.0))
    closure = problem.closure(model, 0)
    optimizer.step(closure)
    w = problem.start.clone().requires_grad_()
    x, y = problem.batch(0)
    loss = lambda v: problem.losses(v, x, y).mean()  # noqa: E731
    (g,) = torch.autograd.grad(loss(w), w, create_graph=True)
    (expected,) = torch.autograd.grad(loss(w + rho * g / g.norm()), w)
    torch.testing.assert_close(torch.cat([p.grad for p in model.parameters()]), expected, **CLOSE)
    assert optimizer.gradient_evaluations == 4


def test_m_sam_of_the_whole_batch_is_sam():
    micro, sam = Training("m_sam", net=Smooth, m=16), Training("sam", net=Smooth)
    assert same(micro.run(8).weights(), sam.run(8).weights())
    at_once = Training("m_sam", net=Smooth, m=4, vectorize=True).run(8)
    for left, right in zip(Training("m_sam", net=Smooth, m=4).run(8).weights(), at_once.weights(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_vectorised_m_sam_refuses_buffers():
    with pytest.raises(ValueError, match="use vectorize=False"):
        Training("m_sam", vectorize=True).run(1)


def test_looksam_keeps_what_is_at_a_right_angle_to_the_gradient():
    training = Training("looksam", net=Smooth, dtype=torch.float64)
    training.closure()()
    g = torch.cat([p.grad.flatten() for p in training.model.parameters()])
    training.step()
    g_v = torch.cat([s["orthogonal_part"].flatten() for s in training.optimizer.state.values()])
    assert abs(float(g @ g_v)) < 1e-13 * float(g.norm() * g_v.norm())
    assert float(training.optimizer.reuse.length) == pytest.approx(float(g_v.norm()), rel=1e-6)


def test_gsam_without_alpha_and_wsam_at_one_half_and_multistep_of_one_are_sam():
    sam = path(lambda b: optimizers.SAM(b, rho=0.1))
    for make in (
        lambda b: optimizers.GSAM(b, rho=0.1, alpha=0.0),
        lambda b: optimizers.WSAM(b, rho=0.1, gamma=0.5),
        lambda b: optimizers.MultistepSAM(b, rho=0.1, steps=1),
        lambda b: optimizers.VaSSO(b, rho=0.1, theta=1.0),
        lambda b: optimizers.LookSAM(b, rho=0.1, k=1),
        lambda b: optimizers.SSSAM(b, rho=0.1, p=1.0),
        lambda b: optimizers.ESAM(b, rho=0.1, beta=1.0, gamma=1.0),
        lambda b: optimizers.BudgetSAM(b, rho=0.1, per_step=2.0),
        lambda b: optimizers.FSAM(b, rho=0.1, sigma=0.0),
        lambda b: optimizers.LateSAM(b, rho=0.1),
    ):
        torch.testing.assert_close(path(make), sam, **CLOSE)


entries = st.lists(st.floats(-10, 10).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=4, max_size=12)


@settings(deadline=None, max_examples=40)
@given(entries=entries, p=st.sampled_from([1, 2, math.inf]), rho=st.floats(0.01, 5))
def test_p_norm_balls_are_climbed_as_far_as_possible(entries, p, rho):
    """‖ε‖_p = ρ and ⟨g, ε⟩ = ρ‖g‖_q with 1/p + 1/q = 1: by Hölder's inequality no ε of this length does better."""
    g = torch.tensor(entries, dtype=torch.float64)
    model = Vector(torch.zeros_like(g))
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), rho=rho, metric=optimizers.Ball(p))
    (model.vector @ g).backward()
    epsilon = torch.cat(optimizer.perturbation())
    if not g.any():
        assert not epsilon.any()
        return
    dual = {1: math.inf, 2: 2, math.inf: 1}[p]
    assert float(epsilon.norm(p)) == pytest.approx(rho, rel=1e-12)
    assert float(g @ epsilon) == pytest.approx(rho * float(g.norm(dual)), rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(entries=entries, p=st.sampled_from([1, 2, math.inf]), rho=st.floats(0.1, 5))
def test_projection_is_the_nearest_point_of_the_ball(entries, p, rho):
    """Against its variational inequality: ⟨x − Πx, y − Πx⟩ ≤ 0 for every y of the ball (its corners suffice)."""
    x = torch.tensor(entries, dtype=torch.float64)
    halves = list(x.split(2))
    projected = torch.cat(optimizers.Ball(p).project(halves, halves, rho))
    assert float(projected.norm(p)) <= rho * (1 + 1e-12)
    if p == 2:
        corners = [x / x.norm() * rho] if x.any() else []
    elif p == 1:
        corners = [sign * rho * row for row in torch.eye(len(x), dtype=torch.float64) for sign in (-1, 1)]
    else:
        corners = [(x - projected).sign() * rho, torch.full_like(x, rho), torch.full_like(x, -rho)]
    for corner in corners:
        assert float((x - projected) @ (corner - projected)) <= 1e-9
    if float(x.norm(p)) <= rho:
        torch.testing.assert_close(projected, x, rtol=1e-12, atol=1e-12)


def test_radius_that_follows_the_learning_rate():
    model = Vector(torch.ones(4))
    base = torch.optim.SGD(model.parameters(), lr=0.4)
    optimizer = optimizers.GSAM(base, rho=0.3, rho_min=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)
    radii = []
    for _ in range(5):
        optimizer.step(lambda: (optimizer.zero_grad(), model.vector.square().sum().backward()))
        radii.append(optimizer.param_groups[0]["rho"])
        scheduler.step()
    assert radii == pytest.approx([0.3, 0.25, 0.2, 0.15, 0.1])


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_axes_combine(base):
    """ASAM's metric on the momentum, written out: ε = −ρ T² v/‖T v‖."""
    rho, problem, recursion = 0.3, quadratic(), Recursion(base)
    ours = path(
        lambda b: SharpnessAware(b, rho=rho, direction=optimizers.Momentum(), metric=optimizers.Adaptive()), base
    )
    w, expected = problem.start.clone(), []
    for batch in range(30):
        v, t = recursion.first, w.abs() + 0.01
        w = recursion.step(w, problem.gradient(w if v is None else w - rho * t**2 * v / (t * v).norm(), batch))
        expected.append(w)
    torch.testing.assert_close(ours, torch.stack(expected), **CLOSE)


COMBINATIONS = {
    "F-SAM's direction under vSAM's policy": {"direction": optimizers.Friendly, "policy": optimizers.VarianceWindow},
    "F-SAM's direction with an average that learns": {"direction": lambda: optimizers.Friendly(lmbda="auto")},
    "LookSAM's reuse with AE-SAM's policy": {"policy": optimizers.LongGradient, "reuse": optimizers.Orthogonal},
    "VaSSO's direction, ASAM's metric, half of the steps": {
        "direction": optimizers.Averaged, "metric": optimizers.Adaptive, "policy": lambda: optimizers.Bernoulli(0.5),
    },
    "momentum within each tensor, every other step": {
        "direction": optimizers.Momentum, "metric": optimizers.PerTensor, "policy": lambda: optimizers.EveryK(2),
    },
    "surrogate gap in the ∞-ball": {"metric": lambda: optimizers.Ball(math.inf), "reuse": optimizers.SurrogateGap},
}  # fmt: skip


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_train_and_resume(name):
    def start(seed):
        training = Training(None, net=Smooth, seed=seed)
        axes = {axis: make() for axis, make in COMBINATIONS[name].items()}
        training.optimizer = SharpnessAware(training.base, rho=0.05, **axes)
        return training

    whole, first, second = start(0).run(12), start(0).run(6), start(1)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.number = 6
    assert same(second.run(6).weights(), whole.weights())
    assert all(w.isfinite().all() for w in whole.weights())


SENSELESS = {
    "reuse=Orthogonal compares the gradients at w and w \\+ ε, but direction=Momentum never": {
        "direction": optimizers.Momentum, "reuse": optimizers.Orthogonal,
    },
    "policy=LongGradient decides from the gradient at w, but direction=Noise never": {
        "direction": optimizers.Noise, "policy": optimizers.LongGradient,
    },
    "policy=VarianceWindow learns from both gradients, but direction=Previous takes only one": {
        "direction": optimizers.Previous, "policy": optimizers.VarianceWindow,
    },
    "expected direction=Steepest and metric=Euclidean, got Averaged and Euclidean": {
        "direction": optimizers.Averaged, "reuse": optimizers.ThroughAscent,
    },
    "expected metric=Ball\\(p\\), got Euclidean": {"direction": lambda: optimizers.Climb(steps=2)},
    "no_sync is about the gradient at w": {"direction": optimizers.Momentum, "no_sync": lambda: torch.no_grad},
    "so reuse=SurrogateGap would do something else on each": {
        "reuse": optimizers.SurrogateGap, "no_sync": lambda: torch.no_grad,
    },
    "every m examples climb on every step": {"policy": lambda: optimizers.EveryK(2), "m": lambda: 4},
}  # fmt: skip


@pytest.mark.parametrize("reason", SENSELESS)
def test_senseless_combinations_are_refused_with_the_reason(reason):
    base = BASES["sgd"]([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match=reason):
        SharpnessAware(base, **{axis: make() for axis, make in SENSELESS[reason].items()})


def test_an_axis_with_counters_serves_one_optimizer():
    policy = optimizers.EveryK(2)
    SharpnessAware(BASES["sgd"]([torch.nn.Parameter(torch.ones(2))]), policy=policy)
    with pytest.raises(ValueError, match="EveryK already belongs to another optimizer"):
        SharpnessAware(BASES["sgd"]([torch.nn.Parameter(torch.ones(2))]), policy=policy)


def test_bad_input_is_named():
    parameter = torch.nn.Parameter(torch.ones(2))
    sgd = BASES["sgd"]([parameter])
    with pytest.raises(ValueError, match="unknown optimizer 'samm'; expected one of adaptive_msam, aesam"):
        optimizers.create("samm", sgd)
    with pytest.raises(TypeError, match="sam: unknown hyperparameter roh; expected among: rho"):
        optimizers.create("sam", sgd, roh=0.1)
    with pytest.raises(ValueError, match=r"expected rho ≥ 0, got -0\.1 in parameter group 0: SAM climbs"):
        optimizers.SAM(sgd, rho=-0.1)
    with pytest.raises(ValueError, match="rho: expected a finite number, got nan"):
        optimizers.MSAM(BASES["sgd"]([parameter]), rho=math.nan)
    with pytest.raises(TypeError, match="expected an optimizer instance"):
        optimizers.SAM([parameter])
    with pytest.raises(ValueError, match="Adadelta has hyperparameters called rho"):
        optimizers.SAM(torch.optim.Adadelta([parameter]))
    with pytest.raises(ValueError, match="expected a base optimizer with momentum to climb along, got SGD"):
        optimizers.MSAM(torch.optim.SGD([parameter], lr=0.1))
    with pytest.raises(
        ValueError, match=r"keeps a first moment .* got Adagrad, which keeps step, sum; use SGD with mom"
    ):
        create("msam", torch.optim.Adagrad([parameter]))
    late = create("msam", torch.optim.Adafactor([parameter]))  # its state comes with its first step
    late.step(lambda: parameter.sum().backward())
    with pytest.raises(ValueError, match=r"got Adafactor, which keeps .*variance"):
        late.step(lambda: parameter.sum().backward())
    parameter.grad = None
    with pytest.raises(ValueError, match="is_normalisation holds for none of the 1 parameters"):
        create("sam_on", BASES["sgd"]([parameter])).step(lambda: parameter.sum().backward())
    with pytest.warns(UserWarning, match="rho = 0.05 is far from the 1.0 to 6.0 that MSAM's paper uses"):
        optimizers.MSAM(BASES["sgd"]([parameter]), rho=0.05)

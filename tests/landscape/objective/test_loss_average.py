"""The truth is what torch gives for all the data in one batch, however unevenly they are cut into batches."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analyses import m_sharpness
from landscape.objective.objective import Objective

WEIGHT = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)


def classes(rows: int, *more: int) -> Tensor:
    return torch.randint(3, (rows, *more))


def padded(rows: int, *more: int, mark: int = -100) -> Tensor:
    """Classes of which those at the end of the data are mostly ignored, the whole last batch among them."""
    y = classes(rows, *more)
    y[10:12], y[13:15], y[16:] = mark, mark, mark
    return y


def real(rows: int, *more: int) -> Tensor:
    return torch.rand(rows, 3, *more, dtype=torch.float64)


# name: (loss, targets, further dimensions of the outputs)
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[int, ...]]] = {
    "cross-entropy": (nn.CrossEntropyLoss(), classes, ()),
    "ignored": (nn.CrossEntropyLoss(), padded, ()),
    "ignored by another mark": (nn.CrossEntropyLoss(ignore_index=255), functools.partial(padded, mark=255), ()),
    "a class ignored": (nn.CrossEntropyLoss(ignore_index=1), classes, ()),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), classes, ()),
    "weights, ignored, smoothed": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), padded, ()),
    "tokens": (nn.CrossEntropyLoss(), padded, (4,)),
    "weighted tokens": (nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2), classes, (4,)),
    "probabilities": (nn.CrossEntropyLoss(), lambda *n: real(*n).softmax(1), ()),
    "weighted probabilities": (nn.CrossEntropyLoss(weight=WEIGHT), lambda *n: real(*n).softmax(1), (2,)),
    "negative log-likelihood": (nn.NLLLoss(weight=WEIGHT), padded, ()),
    "function": (F.cross_entropy, padded, ()),
    "partial": (functools.partial(F.cross_entropy, weight=WEIGHT, ignore_index=0), classes, (2,)),
    "squares": (nn.MSELoss(), real, (2,)),
    "absolute": (nn.L1Loss(), real, ()),
    "logits": (nn.BCEWithLogitsLoss(), real, ()),
    "weighted logits": (nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=3 * WEIGHT), real, ()),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), real, ()),
}
CUTS = [(17,), (4, 12, 1), (1, 2, 3, 4, 6, 1)]


def problem(name: str) -> tuple[nn.Module, Callable[..., Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    loss, targets, more = LOSSES[name]
    columns = 3
    for extent in more:
        columns *= extent
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, columns), nn.Unflatten(1, (3, *more))).double()
    if "likelihood" in name or "divergence" in name:
        model.append(nn.LogSoftmax(1))
    return model, loss, torch.randn(17, 4, dtype=torch.float64), targets(17, *more)


def one_batch(model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and Hessian of all data in one batch, by double backward."""
    parameters = list(model.parameters())
    value = loss(model(x), y)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, create_graph=True)])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True) for g in gradient]
    return value.detach(), gradient.detach(), torch.stack([torch.cat([b.flatten() for b in row]) for row in rows])


@pytest.mark.parametrize("sizes", CUTS, ids=len)
@pytest.mark.parametrize("name", LOSSES)
def test_uneven_batches_are_one_batch(name: str, sizes: tuple[int, ...]) -> None:
    model, loss, x, y = problem(name)
    value, gradient, hessian = one_batch(model, loss, x, y)
    objective = Objective(model, loss, list(zip(x.split(sizes), y.split(sizes), strict=True)))
    torch.testing.assert_close(objective(), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(objective.gradient(), gradient, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(objective.hessian().dense(), hessian, rtol=1e-8, atol=1e-12)
    in_parts = Objective(model, loss, [(x, y)], micro_batch=sizes[0])
    torch.testing.assert_close(in_parts(), value, rtol=1e-12, atol=0)


FISHERS = [n for n in LOSSES if n not in ("absolute", "divergence", "weighted probabilities")]


@pytest.mark.parametrize("name", FISHERS)
def test_the_true_fisher_weighs_as_the_loss_does(name: str) -> None:
    """For these losses it is the Gauss–Newton matrix, but for labels that are smoothed and the scale of squares."""
    model, loss, x, y = problem(name)
    objective = Objective(model, loss, list(zip(x.split((4, 12, 1)), y.split((4, 12, 1)), strict=True)))
    scale = {"squares": 3.0}.get(name, 1.0)  # six outputs: half of them is the sum over outputs in units of MSE
    if name in ("negative log-likelihood", "weights, ignored, smoothed"):
        # One is linear in its outputs, and in the logits it is cross-entropy; the other smooths its weights too.
        ggn = Objective(model, nn.CrossEntropyLoss(weight=WEIGHT), list(objective.batches)).ggn()
    else:
        ggn = objective.ggn()
    torch.testing.assert_close(objective.fisher().dense(), scale * ggn.dense(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_the_empirical_fisher_is_the_weighted_mean_over_rows_that_count(name: str) -> None:
    model, loss, x, y = problem(name)
    objective = Objective(model, loss, list(zip(x.split((4, 12, 1)), y.split((4, 12, 1)), strict=True)))
    expected, total = 0.0, 0.0
    for row in range(17):
        one = objective.on([(x[row : row + 1], y[row : row + 1])])
        try:
            gradient, weight = one.gradient(), one.weight
        except ValueError:  # nothing in it counts
            continue
        expected, total = expected + weight * torch.outer(gradient, gradient), total + weight
    found = objective.fisher(kind="empirical").dense()
    torch.testing.assert_close(found, expected / total, rtol=1e-9, atol=1e-12)


def test_class_weights_of_probabilities_have_no_fisher() -> None:
    model, loss, x, y = problem("weighted probabilities")
    with pytest.raises(ValueError, match="Gauss–Newton"):
        Objective(model, loss, [(x, y)]).fisher()


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="sum"),
        functools.partial(F.cross_entropy, reduction="sum"),
        lambda f, y: F.cross_entropy(f, y, reduction="sum"),
        lambda f, y: -f.log_softmax(1).gather(1, y[:, None]).sum(),
    ],
    ids=["module", "partial", "own", "by hand"],
)
@pytest.mark.parametrize("sizes", [(17,), (9, 8)], ids=len)
def test_sums_are_refused(loss: Callable[..., Tensor], sizes: tuple[int, ...]) -> None:
    model, _, x, y = problem("cross-entropy")
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    for call in (Objective.__call__, Objective.gradient, Objective.hessian, Objective.ggn, m_sharpness):
        with pytest.raises(ValueError, match=r"mean over"):
            call(Objective(model, loss, batches))


OWN = {
    "ignored": (lambda f, y: F.cross_entropy(f, y, ignore_index=1), lambda x, y: int((y != 1).sum())),
    "masked": (lambda f, y: (F.cross_entropy(f, y, reduction="none") * (y > 0)).sum() / (y > 0).sum(), None),
    "weighted": (lambda f, y: F.cross_entropy(f, y, weight=WEIGHT), None),
    "pairs": (lambda f, _: (f @ f.T).tanh().mean(), None),
}


@pytest.mark.parametrize("name", OWN)
def test_a_loss_that_averages_over_something_else_than_rows_is_refused_without_a_count(name: str) -> None:
    model, _, x, y = problem("cross-entropy")
    y[:2] = torch.tensor([0, 1])
    loss, count = OWN[name]
    batches = [(x[:9], y[:9]), (x[9:], y[9:])]
    for call in (Objective.__call__, Objective.gradient, Objective.hessian):
        with pytest.raises(ValueError, match="pass count="):
            call(Objective(model, loss, batches))
    value, gradient, _ = one_batch(model, loss, x, y)
    torch.testing.assert_close(Objective(model, loss, [(x, y)])(), value)  # of one batch there is only one mean
    if count is not None:
        counted = Objective(model, loss, batches, count=count)
        torch.testing.assert_close(counted(), value)
        torch.testing.assert_close(counted.gradient(), gradient)
        assert counted.examples == int((y != 1).sum())


def test_ignored_targets_of_an_unknown_loss_are_refused_without_a_count() -> None:
    """They may come after the batch that is looked at."""
    model, _, x, y = problem("ignored")
    with pytest.raises(ValueError, match=r"-100.*pass count="):
        Objective(model, lambda f, y: F.cross_entropy(f, y), [(x[:9], y[:9]), (x[9:], y[9:])])()


def test_a_part_without_counted_examples_is_passed_over() -> None:
    model, loss, x, y = problem("ignored")
    batches = [(x[:9], y[:9]), (x[9:16], y[9:16]), (x[16:], y[16:])]
    objective = Objective(model, loss, batches)
    assert (len(objective.batches), objective.examples, objective.weight) == (2, 16, float((y != -100).sum()))
    counted = Objective(model, lambda f, y: F.cross_entropy(f, y), batches, count=lambda x, y: int((y != -100).sum()))
    torch.testing.assert_close(objective.gradient(), counted.gradient())
    assert m_sharpness(objective, m=[1]).groups == int(objective.weight)
    with pytest.raises(ValueError, match="at least one example that counts"):
        Objective(model, loss, batches[2:])()


def test_class_weights_follow_the_model_to_another_dtype() -> None:
    model, loss, x, y = problem("class weights")
    single = nn.CrossEntropyLoss(weight=WEIGHT.float())
    found = Objective(model.float(), single, [(x.float(), y)], dtype=torch.float64)()
    torch.testing.assert_close(found, Objective(model.double(), loss, [(x, y)])(), rtol=1e-5, atol=0)
    assert single.weight.dtype == torch.float32


def test_a_subclass_is_not_taken_for_torchs_loss() -> None:
    class Focal(nn.CrossEntropyLoss):
        def forward(self, f: Tensor, y: Tensor) -> Tensor:
            return ((1 - (-F.cross_entropy(f, y, reduction="none")).exp()) ** 2).mean()

    model, _, x, y = problem("cross-entropy")
    objective = Objective(model, Focal(), [(x[:9], y[:9]), (x[9:], y[9:])])
    torch.testing.assert_close(objective(), Focal()(model(x), y).detach())
    with pytest.raises(ValueError, match="cannot tell the likelihood"):
        objective.fisher()

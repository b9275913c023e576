"""Curvature products against dense matrices, over kinds of networks, losses, batch sizes and ways of multiplying."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from analyses.krylov.lanczos import lanczos
from landscape.objective.objective import Objective
from landscape.objective.parameters import NORMALISATION


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.view(-1, 3, 4)).view(-1, 3, 3, 1, 4).permute(2, 0, 3, 1, 4)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 3, 4))[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.again, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.again.weight = self.inner.weight
        self.unused, self.frozen = nn.Linear(2, 2), nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen * self.head(torch.tanh(self.again(torch.tanh(self.inner(x)))))


def convnet(norm: nn.Module) -> nn.Module:
    first = nn.Conv2d(1, 4, 2)
    return nn.Sequential(nn.Unflatten(1, (1, 3, 4)), first, norm, nn.GELU(), nn.Flatten(), nn.Linear(24, 3))


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3)),
    "convnet": lambda: convnet(nn.Identity()),
    "group norm": lambda: convnet(nn.GroupNorm(2, 4)),
    "batch norm": lambda: convnet(nn.BatchNorm2d(4)),
    "attention": Attention,
    "lstm": Recurrent,
    "tied": Tied,
}
LOSSES = {"cross-entropy": nn.CrossEntropyLoss(label_smoothing=0.1), "mse": nn.MSELoss()}
SIZES = [(17,), (9, 8), (1, 2, 3, 4, 5, 1, 1)]


def problem(network: str, loss: str) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    model = NETWORKS[network]().double()
    model(torch.randn(30, 12, dtype=torch.float64))  # moves BatchNorm's statistics off their defaults
    x = torch.randn(17, 12, dtype=torch.float64)
    y = torch.randint(3, (17,)) if loss == "cross-entropy" else torch.randn(17, 3, dtype=torch.float64)
    return model, LOSSES[loss], x, y


def dense_hessian(model: nn.Module, loss_fn: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of all examples in one batch, entry by entry; without the toolkit."""
    model.eval()
    names, parameters = zip(*[(n, p.detach()) for n, p in model.named_parameters() if p.requires_grad], strict=True)

    def loss(*blocks: Tensor) -> Tensor:
        return loss_fn(functional_call(model, dict(zip(names, blocks, strict=True)), (x,)), y)

    with sdpa_kernel(SDPBackend.MATH):
        blocks = torch.autograd.functional.hessian(loss, parameters)
    return torch.cat(
        [torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for row, p in zip(blocks, parameters, strict=True)]
    )


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """(N, outputs, n) of the outputs by the trainable parameters."""
    model.eval()
    names, parameters = zip(*[(n, p.detach()) for n, p in model.named_parameters() if p.requires_grad], strict=True)

    def output(*blocks: Tensor) -> Tensor:
        return functional_call(model, dict(zip(names, blocks, strict=True)), (x,))

    with sdpa_kernel(SDPBackend.MATH):
        blocks = torch.autograd.functional.jacobian(output, parameters)
    return torch.cat([block.flatten(2) for block in blocks], 2)


def split(x: Tensor, y: Tensor, sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


@pytest.mark.parametrize("sizes", SIZES, ids=len)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_hessian_of_every_network(network: str, loss: str, sizes: tuple[int, ...]) -> None:
    model, loss_fn, x, y = problem(network, loss)
    expected = dense_hessian(model, loss_fn, x, y)
    hessian = Objective(model, loss_fn, split(x, y, sizes)).hessian()
    torch.testing.assert_close(hessian.dense(), expected, rtol=1e-8, atol=1e-10)
    v = torch.randn(hessian.shape[0], dtype=torch.float64)
    torch.testing.assert_close(hessian @ v, expected @ v, rtol=1e-8, atol=1e-10)
    assert hessian.way == "retained"


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_eigenvalues_of_every_network(network: str, loss: str) -> None:
    model, loss_fn, x, y = problem(network, loss)
    exact = torch.linalg.eigvalsh(dense_hessian(model, loss_fn, x, y))
    hessian = Objective(model, loss_fn, split(x, y, (1, 2, 3, 4, 5, 1, 1))).hessian()
    top, bottom = lanczos(hessian, 5, tol=1e-9), lanczos(hessian, 2, which="SA", tol=1e-9)
    torch.testing.assert_close(top.values, exact.flip(0)[:5], rtol=1e-8, atol=0)
    torch.testing.assert_close(bottom.values, exact[:2], rtol=1e-8, atol=0)
    gram = top.vectors.T @ top.vectors
    torch.testing.assert_close(gram, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)
    single = Objective(model.float(), loss_fn, split(x.float(), y if y.dtype == torch.int64 else y.float(), (9, 8)))
    low = lanczos(single.hessian(), 5)
    torch.testing.assert_close(low.values, exact.flip(0)[:5], rtol=1e-4, atol=0)
    assert (low.vectors.T @ low.vectors - torch.eye(5)).abs().max() < 1e-5


WAYS = ["retained", "recomputed", "linearised", "forward over reverse"]


@pytest.mark.parametrize(
    ("network", "way"),
    [(n, w) for n in NETWORKS for w in WAYS[: 2 if n == "lstm" else 4]],  # torch has no forward derivative of the LSTM
)
def test_all_ways_agree(network: str, way: str) -> None:
    model, loss_fn, x, y = problem(network, "cross-entropy")
    objective = Objective(model, loss_fn, split(x, y, (9, 8)))
    v = torch.randn(objective.size, 2, dtype=torch.float64)
    hessian = objective.hessian(way=way)
    torch.testing.assert_close(hessian @ v, dense_hessian(model, loss_fn, x, y) @ v, rtol=1e-8, atol=1e-10)
    assert hessian.way == way
    assert objective.hessian_products == 2


def test_products_match_differences_of_gradients() -> None:
    """Independent of automatic second derivatives."""
    model, loss_fn, x, y = problem("batch norm", "cross-entropy")
    objective = Objective(model, loss_fn, split(x, y, (9, 8)))
    v = torch.randn(objective.size, dtype=torch.float64)
    theta, h = objective.theta, 1e-5
    difference = (objective.gradient(theta + h * v) - objective.gradient(theta - h * v)) / (2 * h)
    torch.testing.assert_close(objective.hessian() @ v, difference, rtol=1e-6, atol=1e-8)
    elsewhere = theta + 0.1 * v
    difference = (objective.gradient(elsewhere + h * v) - objective.gradient(elsewhere - h * v)) / (2 * h)
    torch.testing.assert_close(objective.hessian(elsewhere) @ v, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_gauss_newton_and_true_fisher(network: str, loss: str) -> None:
    model, loss_fn, x, y = problem(network, loss)
    objective = Objective(model, loss_fn, split(x, y, (4, 11, 2)))
    J = jacobian(model, x)
    if loss == "mse":
        identity = torch.eye(3, dtype=torch.float64).expand(17, 3, 3)
        curvature, fisher = 2 / 3 * identity, identity  # the loss is a mean over 3 outputs, the likelihood is not
    else:
        p = model(x).detach().softmax(1)
        curvature = fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    for operator, inner in ((objective.ggn(), curvature), (objective.fisher(), fisher)):
        expected = torch.einsum("iap,iab,ibq->pq", J, inner, J) / 17
        torch.testing.assert_close(operator.dense(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("network", NETWORKS)
def test_empirical_fisher(network: str) -> None:
    model, loss_fn, x, y = problem(network, "cross-entropy")
    objective = Objective(model, loss_fn, split(x, y, (4, 11, 2)))
    gradients = torch.stack([objective.on([(x[i : i + 1], y[i : i + 1])]).gradient() for i in range(17)])
    dense = objective.fisher(kind="empirical").dense()
    torch.testing.assert_close(dense, gradients.T @ gradients / 17, rtol=1e-8, atol=1e-10)


def test_memory_decides_between_retaining_and_recomputing() -> None:
    model, loss_fn, x, y = problem("convnet", "cross-entropy")
    objective = Objective(model, loss_fn, split(x, y, (9, 8)))
    v = torch.randn(objective.size, dtype=torch.float64)
    small, large = objective.hessian(memory=1000), objective.hessian(memory=10**8)
    assert (small.way, large.way) == ("recomputed", "retained")
    assert torch.equal(small @ v, large @ v)
    small @ v, large @ v
    assert (objective.ggn(memory=1000).way, objective.ggn(memory=10**8).way) == ("recomputed", "retained")


def test_forward_over_reverse_takes_over_where_double_backward_is_missing() -> None:
    class Once(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, upstream: Tensor) -> Tensor:
            return Cubed.apply(*ctx.saved_tensors) * upstream

        @staticmethod
        def jvp(ctx, tangent: Tensor) -> Tensor:
            return 3 * ctx.saved_tensors[0] ** 2 * tangent

    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return 3 * x**2

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, upstream: Tensor) -> Tensor:
            raise RuntimeError("derivative for Cubed backward is not implemented")

        @staticmethod
        def jvp(ctx, tangent: Tensor) -> Tensor:
            return 6 * ctx.saved_tensors[0] * tangent

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * Once.apply(self.w)

    x = torch.ones(1, 2, dtype=torch.float64)
    objective = Objective(Network(), lambda output, _: output.sum(), [(x, x)])
    hessian = objective.hessian()
    torch.testing.assert_close(hessian.dense().diagonal(), torch.tensor([6.0, 12.0], dtype=torch.float64))
    assert hessian.way == "forward over reverse"


def test_part_of_the_parameters() -> None:
    model, loss_fn, x, y = problem("group norm", "cross-entropy")
    objective = Objective(model, loss_fn, split(x, y, (9, 8)))
    full = objective.hessian().dense()
    selections = [
        ("5", lambda name: name.startswith("5.")),
        (NORMALISATION, lambda name: name.startswith("2.")),
        ("*.bias", lambda name: name.endswith("bias")),
        (lambda name: name == "1.weight", lambda name: name == "1.weight"),
    ]
    for which, inside in selections:
        part = objective.restricted(which)
        rows = objective.space.indices(part.space)
        assert all(map(inside, part.space.names))
        torch.testing.assert_close(part.hessian().dense(), full[rows][:, rows], rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(part.gradient(), objective.gradient()[rows])
        assert torch.equal(part.theta, objective.theta[rows])
    with pytest.raises(ValueError, match="selects no parameter"):
        objective.restricted(nn.LSTM)
    with pytest.raises(ValueError, match="no such parameter"):
        objective.restricted("encoder")


def test_micro_batches_change_nothing_but_memory() -> None:
    model, loss_fn, x, y = problem("batch norm", "cross-entropy")
    whole = Objective(model, loss_fn, split(x, y, (10, 7)))
    parts = Objective(model, loss_fn, split(x, y, (10, 7)), micro_batch=4)
    assert parts.batches.counts == (4, 4, 2, 4, 3)
    torch.testing.assert_close(parts(), whole(), rtol=1e-13, atol=0)
    torch.testing.assert_close(parts.hessian().dense(), whole.hessian().dense(), rtol=1e-10, atol=1e-13)


def test_mixed_parameter_dtypes() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4).to(torch.bfloat16), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x.to(torch.bfloat16)).float()))

    objective = Objective(Mixed(), nn.MSELoss(), [(torch.randn(8, 3), torch.randn(8, 2))])
    assert objective.theta.dtype == torch.float32
    dense = objective.hessian().dense()
    torch.testing.assert_close(dense, dense.T, rtol=0.05, atol=0.02)  # bfloat16 holds 8 bits


def test_nothing_stays_pinned_and_the_model_is_untouched() -> None:
    model, loss_fn, x, y = problem("batch norm", "cross-entropy")
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective = Objective(model, loss_fn, split(x, y, (9, 8)))
    for operator in (objective.hessian(), objective.ggn(), objective.fisher(), objective.fisher(kind="empirical")):
        operator @ objective.theta
    assert all(module.training for module in model.modules())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and p.grad_fn is None for p in model.parameters())
    hessian = objective.hessian()
    hessian @ objective.theta
    graph = weakref.ref(hessian._kept[0][0].outputs[0])
    gc.disable()
    try:
        del hessian, operator
        assert graph() is None  # freed at once: no reference cycle holds the graph
    finally:
        gc.enable()


def test_data_parallel_wrappers_and_compiled_models_are_looked_into() -> None:
    model, loss_fn, x, y = problem("mlp", "cross-entropy")
    plain = Objective(model, loss_fn, [(x, y)]).hessian().dense()
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert torch.equal(Objective(wrapped, loss_fn, [(x, y)]).hessian().dense(), plain)


def test_finite_differences_know_their_error() -> None:
    model, loss_fn, x, y = problem("mlp", "cross-entropy")
    objective = Objective(model, loss_fn, split(x, y, (9, 8)))
    v = 7 * torch.randn(objective.size, dtype=torch.float64)
    exact = objective.hessian() @ v
    before = objective.gradient_evaluations
    approximate = objective.hessian(way="finite differences")
    error = float((approximate @ v - exact).norm() / exact.norm())
    assert 0 < error <= approximate.relative_error < 1e-6
    assert objective.gradient_evaluations - before == 4
    assert not (approximate @ torch.zeros_like(v)).any()
    kinked = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 3))
    rough = Objective(kinked, loss_fn, [(x.float(), y)]).hessian(way="finite differences")
    rough @ torch.randn(rough.shape[0])
    assert rough.relative_error > 1e-3


def test_autocast_is_measured_not_assumed() -> None:
    model, loss_fn, x, y = problem("mlp", "cross-entropy")
    model, x = model.float(), x.float()
    exact = Objective(model, loss_fn, [(x, y)]).hessian().dense()
    low = Objective(model, loss_fn, [(x, y)], autocast=torch.bfloat16)
    assert low.description["autocast"] == "bfloat16"
    difference = (low.hessian().dense() - exact).norm() / exact.norm()
    assert 1e-5 < difference < 0.05
    assert low.theta.dtype == low.gradient().dtype == torch.float32


def test_hugging_face_outputs_and_batches() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")

    class LanguageModel(nn.Module):
        """A causal transformer block with tied embeddings that returns its own loss beside the logits."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.embedding.weight
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

        def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> object:
            mask = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1], dtype=torch.float64)
            logits = self.head(self.block(self.embedding(input_ids), src_mask=mask, is_causal=True))
            loss = None if labels is None else next_token(outputs.CausalLMOutput(logits=logits), {"labels": labels})
            return outputs.CausalLMOutput(loss=loss, logits=logits)

    def next_token(output, batch) -> Tensor:
        return nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    model = LanguageModel().double()
    tokens = torch.randint(11, (5, 6))
    batches = [{"input_ids": part, "labels": part} for part in tokens.split((2, 3))]
    objective = Objective(model, lambda output, batch: output.loss, batches)
    v = torch.randn(objective.size, dtype=torch.float64)
    theta, h = objective.theta, 1e-5
    difference = (objective.gradient(theta + h * v) - objective.gradient(theta - h * v)) / (2 * h)
    torch.testing.assert_close(objective.hessian() @ v, difference, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="linear in the model's outputs"):
        objective.ggn() @ v

    ggn = Objective(model, next_token, batches).ggn()
    assert v @ (ggn @ v) > 0

"""Models and batches off the beaten track work, or are refused with the cure."""

from collections import UserDict

import pytest
import torch
from torch import Tensor, nn

from analyses import m_sharpness, spectral_density, top_eigenvalues
from landscape.objective.model_function import ModelLoss
from landscape.objective.objective import Objective

EVERY = {
    "value": lambda o: o(),
    "gradient": lambda o: o.gradient(o.theta + 0.1),
    "hessian": lambda o: o.hessian(o.theta + 0.1).dense(),
    "recomputed": lambda o: o.hessian(way="recomputed").dense(),
    "ggn": lambda o: o.ggn().dense(),
    "fisher": lambda o: o.fisher().dense(),
    "empirical fisher": lambda o: o.fisher(kind="empirical").dense(),
    "m-sharpness": lambda o: torch.as_tensor(m_sharpness(o, m=[1, 4], rho=0.1).sharpness.values),
    "eigenvalues": lambda o: torch.as_tensor(top_eigenvalues(o, k=2, tol=1e-10).eigenvalue.values),
    "density": lambda o: torch.as_tensor(spectral_density(o, probes=2, nodes=6, outliers=0).density.values),
}


def batches(make: object, rows: tuple[int, ...] = (6, 3)) -> list[object]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(rows), 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (sum(rows),), generator=generator)
    return [make(*part) for part in zip(x.split(rows), y.split(rows), strict=True)]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(features)))


class Labelled(Plain):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": super().forward(features)}


class Masked(Plain):
    """With a constant sparse matrix among its buffers."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        matrix = torch.eye(4, dtype=torch.float64)
        self.register_buffer("mixing", matrix.to_sparse() if layout == "coo" else matrix.to_sparse_csr())

    def forward(self, features: Tensor) -> Tensor:
        return super().forward((self.mixing @ features.T).T)


def reference() -> Objective:
    return Objective(Plain().double(), nn.CrossEntropyLoss(), batches(lambda x, y: (x, y)))


def labelled_loss(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output["logits"], batch["labels"])


SAME = {
    "sparse buffer": lambda: Objective(Masked("coo").double(), nn.CrossEntropyLoss(), list(reference().batches)),
    "compressed buffer": lambda: Objective(Masked("csr").double(), nn.CrossEntropyLoss(), list(reference().batches)),
    "a mapping for the model": lambda: Objective(
        Plain().double(), nn.CrossEntropyLoss(), batches(lambda x, y: ({"features": x}, y))
    ),
    "a mapping of another kind": lambda: Objective(
        Plain().double(), nn.CrossEntropyLoss(), batches(lambda x, y: (UserDict(features=x), y))
    ),
    "a batch that is a mapping": lambda: Objective(
        Labelled().double(), labelled_loss, batches(lambda x, y: {"features": x, "labels": y})
    ),
    "a tuple": lambda: Objective(Plain().double(), nn.CrossEntropyLoss(), batches(lambda x, y: ((x,), y))),
    "sparse inputs": lambda: Objective(
        Plain().double(), nn.CrossEntropyLoss(), batches(lambda x, y: (x.to_sparse(), y)), micro_batch=4
    ),
    "a loss of model and batch": lambda: Objective(
        Plain().double(),
        ModelLoss(lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["y"])),
        batches(lambda x, y: {"x": x, "y": y}),
    ),
}
CANNOT = {
    # what does not say its outputs has no matrix in them, and no likelihood is read off a loss of one's own
    "a loss of model and batch": {"ggn": "ask for the Hessian", "fisher": "likelihood", "empirical fisher": None},
    "a batch that is a mapping": {"fisher": "pass likelihood="},
    "sparse inputs": {"m-sharpness": "one row for each example"},
}


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("kind", SAME)
def test_the_same_function_in_another_form(kind: str, call: str) -> None:
    cannot = CANNOT.get(kind, {})
    if cannot.get(call):
        with pytest.raises((ValueError, TypeError), match=cannot[call]):
            EVERY[call](SAME[kind]())
        return
    expected = EVERY[call](reference())
    found = EVERY[call](SAME[kind]())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


class Bag(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words, self.bags = nn.Embedding(7, 3, sparse=sparse), nn.EmbeddingBag(7, 3, sparse=sparse)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.words(x).sum(1))


class Bags(Bag):
    """Differentiable once: torch has no second derivative of bags."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.bags(x)


@pytest.mark.parametrize("call", EVERY)
def test_embeddings_with_sparse_gradients(call: str) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randint(7, (8, 4), generator=generator), torch.randint(3, (8,), generator=generator))]
    model = Bags if call in ("value", "gradient") else Bag
    dense, sparse = (Objective(model(kind).double(), nn.CrossEntropyLoss(), data) for kind in (False, True))
    torch.testing.assert_close(EVERY[call](sparse), EVERY[call](dense), rtol=1e-9, atol=1e-12)
    assert sparse.model.words.sparse


def test_what_has_no_real_coordinates_is_refused() -> None:
    data = [(torch.randn(5, 4), torch.randint(3, (5,)))]
    with pytest.raises(ValueError, match="pass one batch through the model first"):
        Objective(nn.Sequential(nn.LazyLinear(3)), nn.CrossEntropyLoss(), data)
    with pytest.raises(TypeError, match="view_as_complex"):
        Objective(nn.Linear(4, 3, dtype=torch.complex64), nn.CrossEntropyLoss(), data)


def test_batches_that_cannot_be_regrouped_are_refused_with_the_cure() -> None:
    widths = [({"features": torch.randn(4, width)}, torch.randint(3, (4,))) for width in (4, 5)]

    class Summing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 3)

        def forward(self, features: Tensor) -> Tensor:
            return self.head(features.sum(1, keepdim=True))

    with pytest.raises(TypeError, match="pad them"):
        m_sharpness(Objective(Summing(), nn.CrossEntropyLoss(), widths))
    graph = [((torch.randn(6, 1), torch.tensor([0, 1])), torch.randint(3, (6,)))]

    class Graph(Summing):
        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return super().forward(x + x[edges].sum())

    objective = Objective(Graph(), nn.CrossEntropyLoss(), graph)
    objective.gradient()
    with pytest.raises(TypeError, match="one row for each example"):
        m_sharpness(objective)

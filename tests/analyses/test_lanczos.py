"""Lanczos against spectra that are known because the matrix was built from them, and against LAPACK."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.eigenpairs import Eigenpairs
from analyses.krylov_basis import KrylovBasis
from analyses.krylov_decomposition import KrylovDecomposition
from analyses.lanczos import lanczos
from analyses.scaled_operator import ScaledOperator


def symmetric(spectrum: np.ndarray | list[float], *, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Q diag(spectrum) Qᵀ with a random orthogonal Q."""
    values = torch.as_tensor(np.asarray(spectrum), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return ((q * values) @ q.T).to(dtype)


class Counting:
    """A matrix that counts its products and refuses blocks: all that `lanczos` may ask of an operator."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix, self.products = matrix, 0
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        assert vector.ndim == 1
        self.products += 1
        return self.matrix @ vector


def expected(spectrum: np.ndarray | list[float], which: str, k: int) -> np.ndarray:
    values = np.sort(np.asarray(spectrum))
    if which == "SA":
        return values[:k]
    if which == "LM":
        return values[np.argsort(-np.abs(values), kind="stable")][:k]
    if which == "BE":
        return np.array(list(itertools.chain(*zip(values[::-1], values, strict=True))))[:k]
    return values[::-1][:k]


def krylov_floor(matrix: torch.Tensor, start: torch.Tensor, k: int, tol: float) -> int:
    """Smallest dimension of an exactly orthogonal Krylov space from `start` whose k leading Ritz pairs meet `tol`."""
    basis = (start / start.norm())[:, None]
    for size in range(1, matrix.shape[0] + 1):
        image = matrix @ basis
        values, vectors = torch.linalg.eigh(basis.T @ image)
        chosen = vectors[:, -k:]
        residuals = (image @ chosen - basis @ chosen * values[-k:]).norm(dim=0)
        if size >= k and bool((residuals <= tol * values[-k:].abs()).all()):
            return size
        basis = torch.linalg.qr(torch.cat([basis, image[:, -1:]], 1))[0]
    raise AssertionError("the whole space did not suffice")


def assert_no_ghosts(found: Eigenpairs, tolerance: float) -> None:
    k = found.vectors.shape[1]
    gram = found.vectors.double().T @ found.vectors.double()
    torch.testing.assert_close(gram, torch.eye(k, dtype=torch.float64), rtol=0, atol=tolerance)


SPREAD = np.concatenate([np.linspace(-1, 1, 120), [1.76, 2.0, 2.3, 2.8, 3.0, -1.5, -2.1]])


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("max_basis", [None, 18])
def test_every_end_of_the_spectrum(which: str, max_basis: int | None) -> None:
    found = lanczos(symmetric(SPREAD), 4, which=which, tol=1e-10, max_basis=max_basis)
    np.testing.assert_allclose(found.values, expected(SPREAD, which, 4), rtol=1e-10)
    assert found.converged
    assert_no_ghosts(found, 1e-12)


def test_reported_residuals_are_the_true_ones() -> None:
    matrix = symmetric(SPREAD)
    for tol in (1e-1, 1e-3, 1e-6):
        found = lanczos(matrix, 5, tol=tol)
        true = (matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
        torch.testing.assert_close(found.residuals, true, rtol=1e-6, atol=1e-13)
        assert (true <= tol * found.values.abs()).all()


@pytest.mark.parametrize(("k", "seed"), [(1, 0), (1, 1), (5, 0), (5, 1), (5, 2)])
def test_no_product_beyond_the_krylov_optimum(k: int, seed: int) -> None:
    matrix = symmetric(SPREAD, seed=seed)
    start = torch.randn(len(SPREAD), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    floor = krylov_floor(matrix, start, k, 1e-3)
    found = lanczos(matrix, k, start=start, tol=1e-3)
    assert found.matvecs == floor
    restarted = lanczos(matrix, k, start=start, tol=1e-3, max_basis=2 * k + 8)
    assert restarted.matvecs <= 1.5 * floor


class Noisy(Counting):
    """Each product is off by a random vector of length `noise`, the same one for the same factor."""

    def __init__(self, matrix: torch.Tensor, noise: float) -> None:
        super().__init__(matrix)
        self.noise = noise

    def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
        seed = int(vector.double().abs().sum() * 1e9) % 2**32
        error = torch.randn(len(vector), generator=torch.Generator().manual_seed(seed), dtype=vector.dtype)
        return super().__matmul__(vector) + self.noise * error / error.norm()


@pytest.mark.parametrize("noise", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("max_basis", [None, 18])
def test_errors_of_the_products_are_seen_in_their_asymmetry(noise: float, max_basis: int | None) -> None:
    for seed in range(5):
        basis = KrylovBasis(127, 40, dtype=torch.float64, storage=torch.float64, device=torch.device("cpu"))
        operator = ScaledOperator(Noisy(symmetric(SPREAD, seed=seed), noise), watched=True)
        generator = torch.Generator().manual_seed(seed)
        space = KrylovDecomposition(operator, basis, locked=0, generator=generator)
        space.begin(None)
        for _ in range(12):
            space.extend()
        space.settle()
        if max_basis:
            space.cut(space.ritz(lambda values: np.argsort(-values)).coefficients[:, :6])
            for _ in range(6):
                space.extend()
            space.settle()
        assert operator.scale * space.noise() == pytest.approx(noise, rel=0.35)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 3e-5, 1e-3, 1e-2])
def test_a_product_checks_the_residuals_where_the_products_cannot_vouch_for_them(noise: float) -> None:
    spent = []
    for seed in range(20):
        matrix = symmetric(SPREAD, seed=seed)
        operator = Noisy(matrix, noise)
        found = lanczos(operator, 3, tol=1e-3, max_matvecs=60, generator=torch.Generator().manual_seed(seed))
        assert found.matvecs == operator.products
        true = (matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
        # What one product can measure of a vector is off by the noise itself.
        assert (true <= found.error_bounds + noise).all()
        assert found.converged == bool((found.residuals <= 1e-3 * found.values).all())
        spent.append(found.verification_matvecs)
    if noise < 1e-6:
        assert max(spent) == 0
    if noise >= 1e-3:
        assert min(spent) >= 1


def test_a_basis_in_lower_precision_is_always_checked_by_products() -> None:
    found = lanczos(symmetric(SPREAD, dtype=torch.float32), 3, tol=1e-2, storage=torch.bfloat16)
    assert found.verification_matvecs > 0


def test_asking_less_costs_less() -> None:
    matrix = symmetric(np.geomspace(1e-3, 1, 200))
    costs = [lanczos(matrix, 5, tol=tol).matvecs for tol in (1e-1, 1e-2, 1e-3, 1e-5)]
    assert costs == sorted(set(costs))
    assert costs[0] <= 0.75 * costs[2]


def test_products_are_counted_and_the_basis_is_bounded() -> None:
    operator = Counting(symmetric(SPREAD, dtype=torch.float32))
    found = lanczos(operator, 3, which="SA", max_basis=8)
    assert found.matvecs == operator.products
    assert found.restarts > 0
    assert found.vectors._base.shape[0] == 9  # 8 basis vectors and the next one; the result is views of them


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_basis", [None, 20])
def test_repeated_eigenvalues_are_found_as_often_as_they_occur(dtype: torch.dtype, max_basis: int | None) -> None:
    spectrum = np.concatenate([np.linspace(-1, 1, 150), [1.5, 2.0, 2.0, 3.0, 3.0, 3.0]])
    found = lanczos(symmetric(spectrum, dtype=dtype), 5, multiplicity=True, max_basis=max_basis)
    np.testing.assert_allclose(found.values, [3, 3, 3, 2, 2], rtol=1e-5)
    assert found.converged
    assert_no_ghosts(found, 1e-5)


def test_without_multiplicity_each_eigenvalue_comes_once_and_never_as_a_ghost() -> None:
    spectrum = np.concatenate([np.zeros(90), [1.0, 2.0, 3.0, 3.0, 3.0]])
    found = lanczos(symmetric(spectrum), 3, tol=1e-8)
    np.testing.assert_allclose(found.values, [3, 2, 1], rtol=1e-8)
    long = lanczos(symmetric(SPREAD, dtype=torch.float32), 5, tol=1e-6)
    np.testing.assert_allclose(long.values, expected(SPREAD, "LA", 5), rtol=1e-5)
    assert_no_ghosts(long, 1e-5)


@pytest.mark.parametrize("multiplicity", [False, True])
def test_zero_identity_and_singular_operators(multiplicity: bool) -> None:
    options = {"multiplicity": multiplicity, "tol": 1e-6}
    zero = lanczos(torch.zeros(9, 9), 4, **options)
    assert not zero.values.any()
    assert zero.converged
    assert_no_ghosts(zero, 1e-6)
    identity = lanczos(torch.eye(9), 9, **options)
    np.testing.assert_allclose(identity.values, np.ones(9), rtol=1e-6)
    assert_no_ghosts(identity, 1e-6)
    singular = lanczos(symmetric([0, 0, 0, 1, 2, 3, 4]), 2, which="SA", **options)
    np.testing.assert_allclose(singular.values, [0, 0] if multiplicity else [0, 1], atol=1e-6)
    assert singular.converged


def test_all_pairs_of_a_small_matrix() -> None:
    spectrum = [-3.0, -1.0, 0.5, 2.0, 4.0]
    found = lanczos(symmetric(spectrum), 5, tol=1e-12)
    np.testing.assert_allclose(found.values, sorted(spectrum, reverse=True), rtol=1e-12)


def test_an_unreachable_tolerance_is_named_and_the_best_is_returned() -> None:
    matrix = symmetric(SPREAD, dtype=torch.float32)
    found = lanczos(matrix, 3, tol=1e-9)
    assert not found.converged
    assert "beyond the arithmetic" in found.message
    np.testing.assert_allclose(found.values, expected(SPREAD, "LA", 3), rtol=2e-6)
    assert (np.abs(found.values.numpy() - expected(SPREAD, "LA", 3)) <= found.error_bounds.numpy()).all()


def test_bfloat16_storage_halves_the_basis_and_says_what_it_cost() -> None:
    found = lanczos(symmetric(SPREAD, dtype=torch.float32), 3, storage=torch.bfloat16)
    np.testing.assert_allclose(found.values, expected(SPREAD, "LA", 3), rtol=1e-4)
    assert (found.residuals / found.values < 1e-2).all()
    assert_no_ghosts(found, 1e-5)
    assert found.converged or "stored too coarsely" in found.message


@pytest.mark.parametrize("multiplicity", [False, True])
@pytest.mark.parametrize("at", [12, 40, 1000])
def test_interruption_returns_what_is_there(at: int, multiplicity: bool) -> None:
    class Interrupted(Counting):
        def __matmul__(self, vector: torch.Tensor) -> torch.Tensor:
            if self.products == limit:
                self.products += 1
                raise KeyboardInterrupt
            return super().__matmul__(vector)

    limit = 10**6
    operator = Interrupted(symmetric(SPREAD))
    total = lanczos(operator, 5, tol=1e-8, multiplicity=multiplicity).matvecs
    limit, operator.products = (
        min(at, total - (5 if multiplicity else 0) - 1),
        0,
    )  # in the search, or in the last product
    found = lanczos(operator, 5, tol=1e-8, multiplicity=multiplicity)
    assert not found.converged
    assert found.message == "interrupted"
    assert abs(float(found.values[0]) - 3.0) <= found.error_bounds[0]
    assert_no_ghosts(found, 1e-10)


def test_a_restarted_search_that_gets_no_further_says_so() -> None:
    """Seven eigenvalues next to zero on a scale of 700, in float32, with four new vectors a restart."""
    spectrum = [
        *(2.69501419e02, 1.29800250e-02, 5.78678114e02, 6.43221036e-07, 1.18456343e-01, 5.81923430e-04, 1.04474925e01),
        *(5.56260423e-06, 5.20418518e01, 2.75051494e-02, 1.05232720e02, 5.90928911e-03, 2.01819338e-03, 7.75295343e00),
        *(6.94272558e02, 4.98032778e-04, 4.89022333e02, 1.95102969e02, 5.98309443e-06),
    ]
    found = lanczos(symmetric(spectrum, dtype=torch.float32), 4, which="BE", tol=1e-1, max_basis=12)
    assert "stagnated" in found.message
    assert not found.converged
    assert found.matvecs < 2000
    assert_no_ghosts(found, 1e-5)


def test_products_are_limited_on_request() -> None:
    found = lanczos(symmetric(SPREAD), 5, tol=1e-10, max_matvecs=9)
    assert found.matvecs - found.verification_matvecs == 9
    assert not found.converged
    assert "max_matvecs=9" in found.message


def test_a_warm_start_costs_little() -> None:
    matrix = symmetric(SPREAD)
    cold = lanczos(matrix, 5)
    drift = 1e-3 * symmetric(np.random.default_rng(0).standard_normal(len(SPREAD)), seed=5)
    warm = lanczos(matrix + drift, 5, start=cold.vectors)
    assert warm.converged
    assert warm.matvecs <= cold.matvecs / 2


def test_one_seed_gives_one_answer() -> None:
    matrix = symmetric(SPREAD, dtype=torch.float32)
    first, second = (lanczos(matrix, 3, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.vectors, second.vectors)
    state = torch.get_rng_state()
    lanczos(matrix, 3)
    assert torch.equal(state, torch.get_rng_state())


def test_bad_arguments_are_refused() -> None:
    matrix = torch.eye(4)
    with pytest.raises(ValueError, match="k = 5"):
        lanczos(matrix, 5)
    with pytest.raises(ValueError, match="k = 0"):
        lanczos(matrix, 0)
    with pytest.raises(ValueError, match="square"):
        lanczos(torch.zeros(3, 4), 1)
    with pytest.raises(ValueError, match="tol > 0"):
        lanczos(matrix, 1, tol=0)
    with pytest.raises(ValueError, match="max_basis ≥ k"):
        lanczos(torch.eye(20), 5, max_basis=5)
    with pytest.raises(ValueError, match="which"):
        lanczos(matrix, 1, which="XX")
    with pytest.raises(FloatingPointError, match="NaN"):
        lanczos(torch.full((4, 4), float("nan")), 1)


@st.composite
def spectra(draw: st.DrawFn) -> np.ndarray:
    """Clustered, repeated, graded, negative and mixed spectra of 6 to 40 eigenvalues."""
    n = draw(st.integers(6, 40))
    kind = draw(st.sampled_from(["clustered", "repeated", "graded", "negative", "mixed"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-6, 6))
    if kind == "clustered":
        values = rng.integers(-3, 4, n) + 1e-5 * rng.standard_normal(n)
    elif kind == "repeated":
        values = rng.integers(-2, 3, n).astype(float)
    elif kind == "graded":
        values = 10.0 ** rng.uniform(-8, 2, n)
    elif kind == "negative":
        values = -np.abs(rng.standard_normal(n))
    else:
        values = rng.standard_normal(n) * 10.0 ** rng.uniform(-3, 1, n)
    return scale * values


@settings(max_examples=150, deadline=None)
@given(
    spectra(),
    st.integers(1, 4),
    st.sampled_from(["LA", "SA", "LM", "BE"]),
    st.sampled_from([1e-1, 1e-3, 1e-6]),
    st.sampled_from([None, 12]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1.0, 1e-3]),
)
def test_every_reported_bound_holds(
    spectrum: np.ndarray,
    k: int,
    which: str,
    tol: float,
    max_basis: int | None,
    multiplicity: bool,
    dtype: torch.dtype,
    unseen_distinct: float,
) -> None:
    matrix = symmetric(spectrum, dtype=dtype)
    exact = np.linalg.eigvalsh(matrix.double().numpy())
    found = lanczos(
        matrix, k, which=which, tol=tol, max_basis=max_basis, multiplicity=multiplicity, unseen_distinct=unseen_distinct
    )
    values, bounds = found.values.numpy(), found.error_bounds.numpy()
    assert (np.abs(exact[None, :] - values[:, None]).min(1) <= bounds).all()
    vectors = found.vectors.double()
    true = (matrix.double() @ vectors - vectors * found.values).norm(dim=0).numpy()
    assert (true <= bounds).all()
    assert_no_ghosts(found, 1e-5)
    # Orthonormal vectors with residuals R are near k eigenvalues at once, repeated ones counted: Kahan 1967.
    nearest = [np.sort(np.abs(exact[:, None] - values[None, :]).min(1))[:k].max()]
    assert max(nearest) <= np.sqrt((bounds**2).sum()) * 1.01


def test_reading_one_product_behind_changes_the_cost_by_at_most_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens on an accelerator, where the host does not wait for each product."""
    ordinary = {tol: lanczos(symmetric(SPREAD), 5, tol=tol) for tol in (1e-1, 1e-3, 1e-8)}
    monkeypatch.setattr(KrylovDecomposition, "on_accelerator", True)
    for tol, expected_pairs in ordinary.items():
        found = lanczos(symmetric(SPREAD), 5, tol=tol)
        assert found.converged
        assert expected_pairs.matvecs <= found.matvecs <= expected_pairs.matvecs + 1
        torch.testing.assert_close(found.values, expected_pairs.values, rtol=tol, atol=0)
    for spectrum in ([0.0] * 9, [1.0] * 9, [0.0, 0, 0, 1, 2, 3, 3]):  # V becomes invariant while a product is under way
        found = lanczos(symmetric(spectrum), 3, max_basis=6, tol=1e-6)
        assert found.converged
        assert_no_ghosts(found, 1e-6)
        assert np.abs(np.asarray(spectrum)[None] - found.values.numpy()[:, None]).min(1).max() < 1e-6
    tripled = lanczos(symmetric(np.concatenate([SPREAD, [3.0, 3.0]])), 5, multiplicity=True, max_basis=20)
    np.testing.assert_allclose(tripled.values, [3, 3, 3, 2.8, 2.3], rtol=1e-5)

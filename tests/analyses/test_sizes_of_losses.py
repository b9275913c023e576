"""Law of every analysis: the unit of the loss does not matter. A loss multiplied by 10²⁰ or 10⁻²⁶ gives the same numbers
in that unit, data with NaN an error; nothing gives another number."""

from typing import Any

import numpy as np
import pytest
import torch
from every_analysis import OPTIONS, asked
from hypothesis import given, settings
from hypothesis import strategies as st

import analyses
from analyses import estimate_diagonal, estimate_trace, lanczos, lanczos_quadrature
from landscape.magnitude import norm
from landscape.probes import probe
from optimizers import create

# which power of the loss's unit a variable has, by the unit written beside it
POWER = {"loss": 1, "nats": 1, "loss/‖θ‖₂": 1, "loss/‖θ‖₂²": 1, "‖θ‖₂²/loss": -1}


def test_every_analysis_is_asked() -> None:
    assert set(OPTIONS) == set(analyses.available())


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("dtype", "scales"),
    [
        (torch.float32, (2.0**66, 2.0**-86, 2.0**-120)),
        (torch.float64, (2.0**600, 2.0**-600)),
    ],
    ids=["float32", "float64"],
)
def test_the_unit_of_the_loss_does_not_matter(name: str, dtype: torch.dtype, scales: tuple[float, ...]) -> None:
    plain = asked(name, 1.0, dtype)
    for scale in scales:
        try:
            found = asked(name, scale, dtype)
        except (FloatingPointError, ValueError):
            assert scale < 2.0**-100  # only where the derivatives themselves lose digits
            continue
        for variable, values in plain.data_vars.items():
            if values.dtype.kind != "f":
                continue
            factor = scale ** POWER.get(values.attrs.get("units", "1"), 0)
            # a few roundings of a loss near one, and of sums of it
            tolerance = 2e-5 if dtype == torch.float32 else 1e-10
            there, here = found[variable].values / factor, values.values
            known = np.abs(here[np.isfinite(here)])
            atol = tolerance * max(known.max(initial=0), 1e-3)
            np.testing.assert_allclose(there, here, rtol=tolerance, atol=atol, err_msg=f"{variable} at {scale}")


@pytest.mark.parametrize("name", OPTIONS)
def test_data_with_nan_is_an_error(name: str) -> None:
    with pytest.raises((FloatingPointError, ValueError), match=r"finite|not deterministic|differ|nan"):
        asked(name, 1.0, torch.float32, nan=True)


@pytest.mark.parametrize("scale", [2.0**66, 2.0**-86])
def test_the_probes_of_training_do_not_mind_either(scale: float) -> None:
    def numbers(scale: float) -> dict[str, float]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        x, y = torch.randn(8, 4), torch.randint(3, (8,))
        optimizer = create("plain", torch.optim.SGD(model.parameters(), lr=0.1 / scale, momentum=0.9))

        def loss() -> torch.Tensor:
            return scale * torch.nn.functional.cross_entropy(model(x), y)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        return {name: float(value) for name, value in probe(model, loss, optimizer, 0.1, 0.1).items()}

    for name, value in numbers(scale).items():
        unit = scale if name in ("l2_psf", "momentum_ascent") else 1.0
        assert value / unit == pytest.approx(numbers(1.0)[name], rel=1e-4), name


def symmetric(n: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    return q @ torch.diag(torch.linspace(-1, 3, n, dtype=torch.float64) ** 3) @ q.T


@settings(max_examples=30, deadline=None)
@given(st.integers(-900, 900), st.sampled_from(["LA", "SA", "LM", "BE"]), st.booleans())
def test_an_operator_of_any_size_has_the_eigenvalues_of_its_multiple(power: int, which: Any, copies: bool) -> None:
    """To the bit: a power of two rounds nothing."""
    matrix, scale = symmetric(), 2.0**power
    plain, found = (lanczos(A, 3, which=which, multiplicity=copies) for A in (matrix, scale * matrix))
    assert found.converged
    assert found.matvecs == plain.matvecs
    for name in ("values", "residuals", "error_bounds", "gap_bounds"):
        assert torch.equal(getattr(found, name), scale * getattr(plain, name)), name
    assert torch.equal(found.vectors, plain.vectors)


@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, 70), (torch.float32, -90), (torch.float64, -700)])
def test_so_have_traces_diagonals_and_sums_over_the_spectrum(dtype: torch.dtype, power: int) -> None:
    matrix, scale = symmetric().to(dtype), 2.0**power
    for method in ("hutchinson", "hutch++", "xtrace"):
        plain = estimate_trace(matrix, method, rtol=0.0, atol=1.0, max_products=48)
        found = estimate_trace(scale * matrix, method, rtol=0.0, atol=scale, max_products=48)
        assert found == plain.times(scale)
    assert torch.equal(estimate_diagonal(scale * matrix).diagonal, scale * estimate_diagonal(matrix).diagonal)
    plain, found = (lanczos_quadrature(A, probes=2, steps=6) for A in (matrix, scale * matrix))
    np.testing.assert_array_equal(found.nodes, scale * plain.nodes)


class Sparse:
    """(e₁ − e₂)(e₁ − e₂)ᵀ · size: half of all sign vectors, and any start with equal ends, give zero at first."""

    shape, dtype, device = (3, 3), torch.float32, torch.device("cpu")

    def __matmul__(self, vectors: torch.Tensor) -> torch.Tensor:
        difference = 1e25 * (vectors[0] - vectors[1])
        return torch.stack([difference, -difference, torch.zeros_like(difference)])


def test_a_first_product_that_is_zero_settles_no_scale() -> None:
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        found = estimate_diagonal(Sparse(), generator=generator)
        np.testing.assert_allclose(found.diagonal.double().numpy(), [1e25, 1e25, 0], rtol=0.8)
        assert torch.isfinite(found.stderr).all()
    found = lanczos(Sparse(), 2, start=torch.tensor([1.0, 1.0, 0.0]))
    assert float(found.values[0]) == pytest.approx(2e25, rel=1e-5)


@given(st.floats(-30, 30), st.integers(1, 50))
def test_a_norm_is_right_wherever_it_is_a_number(exponent: float, n: int) -> None:
    vector = torch.randn(n, generator=torch.Generator().manual_seed(n)) * 10.0**exponent
    assert float(norm(vector)) == pytest.approx(float(torch.linalg.vector_norm(vector.double())), rel=1e-6)

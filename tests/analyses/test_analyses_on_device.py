"""Every analysis on an accelerator gives the numbers it gives on the CPU, from the same seed."""

from typing import Any

import numpy as np
import pytest
import torch
from sharpness_problems import classifier

import analyses
from landscape.objective.objective import Objective

OPTIONS: dict[str, dict[str, Any]] = {
    "curvature_along": {},
    "diagonal": {"max_products": 40},
    "directional_sharpness": {
        "directions": ["gradient", "momentum", "random", "filter_normalized", "eigenvector", "batch_gradient"]
    },
    "gradient_similarity": {"rho_sam": 0.3},
    "loss_surface": {"points": 5},
    "m_sharpness": {"m": (1, 4), "ascent_steps": 2},
    "psf": {"rho": 0.1},
    "spectral_density": {"probes": 3, "nodes": 12, "outliers": 3, "interval": (-2, 2), "width": 0.2, "points": 21},
    "trace": {"max_products": 40},
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIONS)
def test_an_accelerator_gives_the_same_numbers(name: str) -> None:
    here = classifier()
    there = Objective(here.model, here.loss_fn, list(here.batches), device="cuda")
    ask, options = analyses.get(name), dict(OPTIONS[name])
    if "momentum" in ask.options:
        options["momentum"] = torch.randn(here.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected, found = ask(here, **options), ask(there, **options)
    for variable in expected.data_vars:
        np.testing.assert_allclose(found[variable], expected[variable], rtol=1e-6, atol=1e-8, err_msg=str(variable))


@pytest.mark.parametrize("name", OPTIONS)
def test_one_seed_gives_the_same_bits(name: str) -> None:
    objective = classifier()
    ask, options = analyses.get(name), dict(OPTIONS[name])
    if "momentum" in ask.options:
        options["momentum"] = torch.ones(objective.size)
    first, again = ask(objective, **options), ask(objective, **options)
    assert first.drop_attrs(deep=False).identical(again.drop_attrs(deep=False))

"""Every analysis, asked with few options of one small network."""

import tempfile
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import analyses
from landscape import Objective
from landscape.experiment import Experiment
from landscape.runs.checkpoint import Checkpoint
from landscape.runs.checkpoint_file import write_checkpoint

OPTIONS: dict[str, dict[str, Any]] = {
    "curvature_along": {"samples": 2, "directions": ["gradient", "momentum", "random"]},
    "diagonal": {"max_products": 32, "rtol": 0.0},
    "directional_sharpness": {"radii": [-0.5, 0.5], "samples": 2},
    "friendliness": {"batches": 2},
    "gradient_similarity": {"batches": 2},
    "hessian_spectrum": {"k": 2, "max_basis": 12, "tol": 1e-2},
    "interpolation_barrier": {"points": 3},
    "loss_surface": {"points": 3, "directions": ["gradient", "random"]},
    "m_sharpness": {"m": [1, 4]},
    "psf": {"rho": 0.1, "batches": 2},
    "spectral_density": {"probes": 2, "nodes": 8, "outliers": 2, "points": 5},
    "top_eigenvalues": {"k": 2, "tol": 1e-2},
    "trace": {"max_products": 32, "rtol": 0.0},
}

# fewer still, where many checkpoints are asked
QUICK: dict[str, dict[str, Any]] = {
    "curvature_along": {"samples": 2},
    "diagonal": {"max_products": 2},
    "directional_sharpness": {"radii": [0.5], "samples": 2},
    "friendliness": {"batches": 2},
    "gradient_similarity": {"batches": 2},
    "hessian_spectrum": {"k": 1},
    "interpolation_barrier": {"points": 3},
    "loss_surface": {"points": 3, "directions": ["random"]},
    "m_sharpness": {"m": [4]},
    "psf": {"batches": 2},
    "spectral_density": {"probes": 1, "nodes": 3, "outliers": 1, "points": 3},
    "top_eigenvalues": {"k": 1},
    "trace": {"max_products": 2},
}


def second(objective: Objective, step: float = 0.1) -> Checkpoint:
    """Another checkpoint of the objective's model: every weight larger by `step`."""
    experiment = Experiment().to_toml()
    weights = {name: block + step for name, block in objective.space.unflatten(objective.theta.cpu()).items()}
    path = Path(tempfile.mkdtemp()) / "run" / "checkpoints" / "step-00000007.h5"
    path.parent.mkdir(parents=True)
    write_checkpoint(
        path,
        step=7,
        parameters=weights,
        momentum=None,
        buffers={},
        state={},
        metrics={},
        attributes={"experiment": experiment},
    )
    return Checkpoint.open(path)


def asked(name: str, scale: float, dtype: torch.dtype, nan: bool = False) -> xr.Dataset:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).to(dtype)
    x, y = torch.randn(12, 3, dtype=dtype), torch.randint(3, (12,))
    if nan:
        x[5, 1] = torch.nan

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return scale * torch.nn.functional.cross_entropy(output, target)

    objective = Objective(model, loss, list(zip(x.split(6), y.split(6), strict=True)))
    options = dict(OPTIONS[name])
    if "momentum" in analyses.get(name).options:
        drawn = torch.randn(objective.size, generator=torch.Generator().manual_seed(1)).to(dtype)
        options["momentum"] = scale * drawn  # a sum of gradients
    if "other" in analyses.get(name).options:
        options["other"] = second(objective)
    if name == "spectral_density":
        options["alpha"] = [0.1 * scale]
    return analyses.get(name)(objective, **options)

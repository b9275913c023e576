"""Questions to the loss surface, one function each; all of them answer with an `xarray.Dataset`."""

from analyses.curvature.along import compare_curvature_along, curvature_along, plot_curvature_along
from analyses.curvature.benchmark import hessian_benchmark
from analyses.curvature.density import compare_spectral_density, plot_spectral_density, spectral_density
from analyses.curvature.diagonal import diagonal, estimate_diagonal, plot_diagonal
from analyses.curvature.spectrum import (
    compare_top_eigenvalues,
    hessian_spectrum,
    plot_hessian_spectrum,
    plot_top_eigenvalues,
    top_eigenvalues,
)
from analyses.curvature.trace import compare_trace, estimate_trace, plot_trace, trace
from analyses.curvature.tracking import track_eigenvalues
from analyses.estimators.quadrature import lanczos_quadrature
from analyses.gradients.friendliness import friendliness, plot_friendliness
from analyses.gradients.psf import compare_psf, plot_psf, psf
from analyses.gradients.similarity import (
    compare_angle,
    compare_gradient_similarity,
    gradient_similarity,
    plot_gradient_similarity,
)
from analyses.krylov.lanczos import lanczos
from analyses.registry import Analysis, analysis, available, get
from analyses.sharpness.barrier import interpolation_barrier, plot_interpolation_barrier
from analyses.sharpness.directional import (
    compare_directional_sharpness,
    directional_sharpness,
    plot_directional_sharpness,
)
from analyses.sharpness.m_sharpness import compare_m_sharpness, m_sharpness, plot_m_sharpness
from analyses.sharpness.surface import compare_loss_surface, loss_surface, plot_loss_surface

__all__ = [  # noqa: RUF022 - grouped by question, not by letter
    # how far the loss rises along a direction
    "compare_directional_sharpness",
    "directional_sharpness",
    "plot_directional_sharpness",
    # how far it rises between two checkpoints
    "interpolation_barrier",
    "plot_interpolation_barrier",
    # the same for groups of m examples at their worst, and over a line or a plane
    "compare_loss_surface",
    "compare_m_sharpness",
    "loss_surface",
    "m_sharpness",
    "plot_loss_surface",
    "plot_m_sharpness",
    # what SAM and MSAM do to the gradient
    "compare_angle",
    "compare_gradient_similarity",
    "compare_psf",
    "friendliness",
    "gradient_similarity",
    "plot_friendliness",
    "plot_gradient_similarity",
    "plot_psf",
    "psf",
    # the ends of the spectrum
    "compare_top_eigenvalues",
    "hessian_benchmark",
    "hessian_spectrum",
    "plot_hessian_spectrum",
    "plot_top_eigenvalues",
    "top_eigenvalues",
    "track_eigenvalues",
    # the whole spectrum, the trace, the diagonal
    "compare_spectral_density",
    "compare_trace",
    "diagonal",
    "plot_diagonal",
    "plot_spectral_density",
    "plot_trace",
    "spectral_density",
    "trace",
    # curvature along a direction
    "compare_curvature_along",
    "curvature_along",
    "plot_curvature_along",
    # the same for any symmetric operator with a shape and @
    "estimate_diagonal",
    "estimate_trace",
    "lanczos",
    "lanczos_quadrature",
    # the registry that the command line and the README read
    "Analysis",
    "analysis",
    "available",
    "get",
]

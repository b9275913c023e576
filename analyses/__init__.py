"""Questions to the loss surface, one function each; all of them answer with an `xarray.Dataset`."""

# along directions
from analyses.directional_sharpness import (
    compare_directional_sharpness,
    directional_sharpness,
    plot_directional_sharpness,
)

# what SAM and MSAM do to the gradient
from analyses.gradient_similarity import (
    compare_angle,
    compare_gradient_similarity,
    gradient_similarity,
    plot_gradient_similarity,
)
from analyses.psf import compare_psf, plot_psf, psf

# the registry that the command line and the README read
from analyses.registry import Analysis, analysis, available, get

__all__ = [  # noqa: RUF022 - grouped by question, not by letter
    # along directions
    "compare_directional_sharpness",
    "directional_sharpness",
    "plot_directional_sharpness",
    # what SAM and MSAM do to the gradient
    "compare_angle",
    "compare_gradient_similarity",
    "compare_psf",
    "gradient_similarity",
    "plot_gradient_similarity",
    "plot_psf",
    "psf",
    # the registry
    "Analysis",
    "analysis",
    "available",
    "get",
]

"""The figures of a study: one line for each method, mean and standard error over seeds, drawn from the files alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import analyses
from analyses import figures
from analyses.studies.results import Results

Draw = Callable[[Axes], object]


def panels(*draw: Draw, height: float = 2.5) -> Figure:
    """A row of panels, one column wide each, with one legend for all above them."""
    with figures.style():
        figure, axes = plt.subplots(
            1, len(draw), figsize=(figures.COLUMN * len(draw), height), layout="constrained", squeeze=False
        )
        entries: dict[str, Artist] = {}
        for ax, paint in zip(axes[0], draw, strict=True):
            paint(ax)
            handles, labels = ax.get_legend_handles_labels()
            entries |= {str(label): handle for label, handle in zip(labels, handles, strict=True)}
            if ax.get_legend() is not None:
                ax.get_legend().remove()
        figure.legend(list(entries.values()), list(entries), loc="outside upper left", ncols=len(entries))
        return figure


def line_over_steps(datasets: Mapping[str, xr.Dataset], name: str, label: str, zero: bool = False) -> Draw:
    """A panel with the series `name` of each method against the training step."""

    def draw(ax: Axes) -> None:
        for method, dataset in datasets.items():
            mean, error = figures.over_seeds(dataset, name)
            figures.band(ax, mean[mean.dims[0]], mean, error, method)
        if zero:
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_xlabel("training step")
        ax.set_ylabel(label)

    return draw


def training(results: Results) -> Figure:
    """Test accuracy and training loss after every epoch."""
    metrics = results.metrics()
    percent = {label: dataset.assign(test_accuracy=100 * dataset.test_accuracy) for label, dataset in metrics.items()}
    return panels(
        line_over_steps(percent, "test_accuracy", "test accuracy [%]"),
        line_over_steps(metrics, "train_loss", "training loss [nats]"),
    )


def curvature(results: Results) -> Figure:
    """The largest Hessian eigenvalue during training, and the five largest at its end."""
    return panels(
        lambda ax: analyses.compare_top_eigenvalues(results.series("top_eigenvalues"), ax),
        lambda ax: analyses.compare_top_eigenvalues(results.final("top_eigenvalues"), ax),
    )


def sharpness(results: Results) -> Figure:
    """The rise of the loss along directions, at the end of training.

    Along the batch gradient it is the rise of each batch's loss along its own gradient, averaged over the batches.
    """
    final = results.final("directional_sharpness")
    there = [str(name) for dataset in final.values() for name in dataset.direction.values]
    paper = [name for name in ("batch_gradient", "momentum", "random") if name in there]  # Becker et al. 2024, Fig. 4

    def along(direction: str) -> Draw:
        having = {label: dataset for label, dataset in final.items() if direction in dataset.direction.values}
        return lambda ax: analyses.compare_directional_sharpness(having, ax, direction=direction)

    return panels(*map(along, paper or dict.fromkeys(there)))


def similarity(results: Results) -> Figure:
    """Cosines of the SAM and MSAM gradients and of gradient and momentum; the angle of SAM and MSAM against MSAM's radius.

    The angle is that of the part of MSAM's gradient in the plane of SGD's and SAM's, a small part at large radii:
    `out_of_plane` in the files says how small.
    """
    series = results.series("gradient_similarity")
    return panels(
        lambda ax: analyses.compare_gradient_similarity(series, ax, pair=("sam", "msam")),
        lambda ax: analyses.compare_gradient_similarity(series, ax, pair=("sgd", "momentum")),
        lambda ax: analyses.compare_angle(results.final("gradient_similarity"), ax),
    )


def psf(results: Results) -> Figure:
    """The L2-PSF during training, and its ratio to the gradient's norm."""
    series = results.series("psf")
    return panels(
        lambda ax: analyses.compare_psf(series, ax, quantity="l2_psf"),
        lambda ax: analyses.compare_psf(series, ax, quantity="ratio"),
    )


def momentum(results: Results) -> Figure:
    """Cosine of momentum and gradient, and the rise of the batch's loss at MSAM's point; running means of eight probes."""
    metrics = {
        label: dataset.assign(
            {name: _running_mean(dataset[name]) for name in ("momentum_cosine_next_batch", "momentum_ascent")}
        )
        for label, dataset in results.metrics().items()
    }
    return panels(
        line_over_steps(metrics, "momentum_cosine_next_batch", "cos(v, g), next batch", zero=True),
        line_over_steps(metrics, "momentum_ascent", "L(w − ρ v/‖v‖) − L(w) [nats]", zero=True),
    )


def _running_mean(series: xr.DataArray, window: int = 8) -> xr.DataArray:
    (along,) = (dim for dim in series.dims if dim != "seed")
    return series.rolling({along: window}, min_periods=1).mean()


@dataclass(frozen=True)
class StudyFigure:
    """A figure of the report: the analysis it needs, if any, and how it is drawn; its docstring is the caption."""

    analysis: str | None
    draw: Callable[[Results], Figure]

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return " ".join((self.draw.__doc__ or "").split())


# by the heading in the report; the file carries the same name in lower case
FIGURES = {
    "Training": StudyFigure(None, training),
    "Curvature": StudyFigure("top_eigenvalues", curvature),
    "Sharpness": StudyFigure("directional_sharpness", sharpness),
    "Similarity": StudyFigure("gradient_similarity", similarity),
    "PSF": StudyFigure("psf", psf),
    "Momentum": StudyFigure(None, momentum),
}


def drawable(results: Results) -> dict[str, tuple[StudyFigure, Results]]:
    """By heading, the figures whose analyses the study asks, and the results they draw; `Momentum` needs the probes.

    Where an analysis is asked more than once, each of its questions has a figure, `Curvature-<id>`.
    """
    probed = bool(results.study.experiment.get("probe_every"))
    return {
        f"{name}-{ask}" if ask else name: (figure, asking)
        for name, figure in FIGURES.items()
        if results.asks(figure.analysis) and (probed or name != "Momentum")
        for ask, asking in results.each_asking(figure.analysis).items()
        if asking.at_end(figure.analysis)
    }

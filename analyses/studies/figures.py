"""The figures of a report: one line for each arm, mean and standard error over seeds, drawn from the files alone."""

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
from analyses.studies.answers import Answers
from analyses.studies.claim import Ask

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


def training(answers: Answers, ask: Ask | None = None) -> Figure:
    """Test accuracy and training loss after every epoch."""
    metrics = answers.metrics()
    percent = {label: dataset.assign(test_accuracy=100 * dataset.test_accuracy) for label, dataset in metrics.items()}
    return panels(
        line_over_steps(percent, "test_accuracy", "test accuracy [%]"),
        line_over_steps(metrics, "train_loss", "training loss [nats]"),
    )


def curvature(answers: Answers, ask: Ask) -> Figure:
    """The largest Hessian eigenvalue during training, and the five largest at its end."""
    return panels(
        lambda ax: analyses.compare_top_eigenvalues(answers.series(ask), ax),
        lambda ax: analyses.compare_top_eigenvalues(answers.final(ask), ax),
    )


def sharpness(answers: Answers, ask: Ask) -> Figure:
    """The rise of the loss along directions, at the end of training.

    Along the batch gradient it is the rise of each batch's loss along its own gradient, averaged over the batches.
    """
    final = answers.final(ask)
    there = [str(name) for dataset in final.values() for name in dataset.direction.values]
    paper = [name for name in ("batch_gradient", "momentum", "random") if name in there]  # Becker et al. 2024, Fig. 4

    def along(direction: str) -> Draw:
        having = {label: dataset for label, dataset in final.items() if direction in dataset.direction.values}
        return lambda ax: analyses.compare_directional_sharpness(having, ax, direction=direction)

    return panels(*map(along, paper or dict.fromkeys(there)))


def similarity(answers: Answers, ask: Ask) -> Figure:
    """Cosines of the SAM and MSAM gradients and of gradient and momentum; the angle of SAM and MSAM against MSAM's radius.

    The angle is that of the part of MSAM's gradient in the plane of SGD's and SAM's, a small part at large radii:
    `out_of_plane` in the files says how small.
    """
    series = answers.series(ask)
    return panels(
        lambda ax: analyses.compare_gradient_similarity(series, ax, pair=("sam", "msam")),
        lambda ax: analyses.compare_gradient_similarity(series, ax, pair=("sgd", "momentum")),
        lambda ax: analyses.compare_angle(answers.final(ask), ax),
    )


def psf(answers: Answers, ask: Ask) -> Figure:
    """The L2-PSF during training, and its ratio to the gradient's norm."""
    series = answers.series(ask)
    return panels(
        lambda ax: analyses.compare_psf(series, ax, quantity="l2_psf"),
        lambda ax: analyses.compare_psf(series, ax, quantity="ratio"),
    )


def momentum(answers: Answers, ask: Ask | None = None) -> Figure:
    """Cosine of momentum and gradient, and the rise of the batch's loss at MSAM's point; running means of eight probes."""
    metrics = {
        label: dataset.assign(
            {name: _running_mean(dataset[name]) for name in ("momentum_cosine_next_batch", "momentum_ascent")}
        )
        for label, dataset in answers.metrics().items()
    }
    return panels(
        line_over_steps(metrics, "momentum_cosine_next_batch", "cos(v, g), next batch", zero=True),
        line_over_steps(metrics, "momentum_ascent", "L(w − ρ v/‖v‖) − L(w) [nats]", zero=True),
    )


def _running_mean(series: xr.DataArray, window: int = 8) -> xr.DataArray:
    (along,) = (dim for dim in series.dims if dim != "seed")
    return series.rolling({along: window}, min_periods=1).mean()


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report: the analysis or the metrics it needs, and how it is drawn; its docstring is the caption."""

    analysis: str | None
    metrics: tuple[str, ...]
    draw: Callable[..., Figure]

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return " ".join((self.draw.__doc__ or "").split())


# by the heading in the report; the file carries the same name in lower case
FIGURES = {
    "Training": ReportFigure(None, ("test_accuracy", "train_loss"), training),
    "Curvature": ReportFigure("top_eigenvalues", (), curvature),
    "Sharpness": ReportFigure("directional_sharpness", (), sharpness),
    "Similarity": ReportFigure("gradient_similarity", (), similarity),
    "PSF": ReportFigure("psf", (), psf),
    "Momentum": ReportFigure(None, ("momentum_cosine_next_batch", "momentum_ascent"), momentum),
}


def drawable(answers: Answers) -> dict[str, tuple[ReportFigure, Ask | None]]:
    """By heading, the figures that the runs have answers or metrics for, and the ask that each draws.

    Where an analysis is asked more than once, each of its asks has a figure, `Curvature-<ask>`.
    """
    found: dict[str, tuple[ReportFigure, Ask | None]] = {}
    recorded = [set(dataset.data_vars) for dataset in answers.metrics().values()]
    for name, figure in FIGURES.items():
        if figure.analysis is None:
            if recorded and all(set(figure.metrics) <= names for names in recorded):
                found[name] = figure, None
            continue
        asks = answers.asked(figure.analysis)
        found |= {name if len(asks) == 1 else f"{name}-{ask.name}": (figure, ask) for ask in asks}
    return found


def draw(answers: Answers, name: str) -> Figure:
    """The figure under a heading of the report."""
    figure, ask = drawable(answers)[name]
    return figure.draw(answers, ask)

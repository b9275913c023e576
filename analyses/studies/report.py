"""The report of a study: figures, a table, verdicts, and for every number the file and dataset it was read from.

One text, `report.md`; `report.html` is the same text with the figures inside, so that it can be sent as one file.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from markdown_it import MarkdownIt

from analyses import figures
from analyses.studies.figures import StudyFigure, drawable
from analyses.studies.holm import LEVEL
from analyses.studies.results import QUANTITIES, Number, Quantity, Results
from analyses.studies.verdicts import judge
from landscape.markdown import markdown_table

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100% } table { border-collapse: collapse; font-size: 85%; display: block; overflow-x: auto }
td, th { border-bottom: 1px solid #ccc; padding: .25rem .6rem; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left } code { font-size: 90% }
.claims td { white-space: normal; text-align: left }
"""


@dataclass(frozen=True)
class Column:
    """A quantity of one question of the study, under its heading, with the numbers of all runs."""

    quantity: Quantity
    label: str
    numbers: dict[str, dict[int, Number]]


def write_report(results: Results, failures: dict[Path, str]) -> Path:
    """Draw the figures and write `report.md` and `report.html` into the study's folder; returns the HTML's path."""
    folder = results.directory
    if not results.labels:
        raise ValueError(f"{folder}: expected at least one finished run to report on, found none")
    drawn = {}
    for name, (wanted, asking) in drawable(results).items():
        figure = wanted.draw(asking)
        drawn[name] = wanted, figures.save(figure, folder / "figures" / name.lower())[0]
        plt.close(figure)
    text = "\n\n".join(_sections(results, failures, drawn))
    (folder / "report.md").write_text(text + "\n")
    page = folder / "report.html"
    page.write_text(_html(results.study.title, text, folder))
    return page


def _sections(results: Results, failures: dict[Path, str], drawn: dict[str, tuple[StudyFigure, Path]]) -> Iterable[str]:
    study = results.study
    yield f"# {study.title}"
    if study.about:
        yield study.about.strip()
    columns = [
        Column(quantity, f"{quantity.label}, {ask}" if ask else quantity.label, asking.numbers(quantity))
        for quantity in QUANTITIES
        for ask, asking in results.each_asking(quantity.analysis).items()
        if asking.at_end(quantity.analysis)
    ]
    counts = {name: len(runs) for name, runs in results.runs.items()}
    yield (
        f"Mean ± standard error over the seeds {', '.join(map(str, study.seeds))}. Sharpness is the rise of the loss at "
        f"distance {study.sharpness_radius:g} from the final weights. The peak test accuracy is picked on the test split, "
        "hence optimistic. Gradients are the method's own: probes, evaluations and analyses are not in them."
    )
    yield "## Results"
    yield _table(results, columns)
    incomplete = {name: count for name, count in counts.items() if count < len(study.seeds)}
    for name, count in incomplete.items():
        yield f"**{name}: {count} of {len(study.seeds)} runs are whole; the others are not in the numbers.**"
    for (name, seed), reason in results.diverged.items():
        yield f"- `{name}/seed-{seed}` diverged: {reason}"
    noted = {results.directory / name / f"seed-{seed}" for name, seed in results.diverged}
    for folder, reason in failures.items():
        if folder in noted:
            continue
        yield f"- `{folder.relative_to(results.directory)}`: {reason}"
    if study.claims:
        yield "## Claims"
        yield (
            "Each claim is judged by the paired difference over all seeds (Student's t): HOLDS, REVERSED, or NOT RESOLVED where "
            f"p ≥ {LEVEL:g}. p is adjusted for the number of claims in the family (Holm), so that of {1 / LEVEL:.0f} studies "
            "in which nothing is true one reports anything; the interval of 95 % beside the difference is its own. A run that "
            "diverged counts with the value that the claim registered for it; a claim with a missing run is not judged by the "
            "others. Claims and statistics stand in the study's own file."
        )
        yield _claims(results)
    for name, (figure, picture) in drawn.items():
        yield f"## {name}"
        yield f"![{name}]({picture.relative_to(results.directory)})"
        yield f"{figure.caption} Bands: one standard error over seeds."
    yield "## Where each number comes from"
    yield f"Paths are relative to this report. The runs were made with {_versions(results)}."
    yield _sources(results, columns)


def _versions(results: Results) -> str:
    """The versions that the last checkpoints of all runs name."""
    found = {
        f"torch {attributes['version_torch']}, landscape-toolkit {attributes['version_landscape_toolkit']}"
        for runs in results.runs.values()
        for attributes in (run.checkpoint("last").attributes for run in runs.values())
    }
    return "; ".join(sorted(found))


def _table(results: Results, columns: list[Column]) -> str:
    head = ["method", *(f"{column.label} [{column.quantity.unit}]" for column in columns)]
    seeds = len(results.study.seeds)
    rows = [
        [label, *(_cell(c.quantity, seeds, [n.value for n in c.numbers[name].values()]) for c in columns)]
        for name, label in results.labels.items()
    ]
    return markdown_table(head, rows)


def _cell(quantity: Quantity, seeds: int, values: list[float]) -> str:
    known = np.array([value for value in values if np.isfinite(value)])
    if not known.size:
        return "–"
    scale, places = (100, quantity.form[:-1] + "f") if quantity.form.endswith("%") else (1, quantity.form)
    mean = format(scale * known.mean(), places)
    fewer = f" (n = {known.size})" if known.size < seeds else ""
    if known.size < 2 or not known.std():
        return mean + fewer
    return f"{mean} ± {format(scale * known.std(ddof=1) / np.sqrt(known.size), places)}{fewer}"


def _claims(results: Results) -> str:
    rows = [
        [
            verdict.claim.statement,
            verdict.claim.source,
            f"`{verdict.claim.quantity}`" + (f" of `{verdict.claim.ask}`" if verdict.claim.ask else ""),
            f"{verdict.difference:+.3g} ± {verdict.half_width:.2g}",
            str(verdict.seeds),
            f"{verdict.p:.2g}",
            f"{verdict.word}: {verdict.reason}" if verdict.reason else verdict.word,
        ]
        for verdict in judge(results)
    ]
    return markdown_table(["claim", "source", "statistic", "difference", "seeds", "p, adjusted", "verdict"], rows)


def _sources(results: Results, columns: list[Column]) -> str:
    rows = [
        [
            results.labels[name],
            str(seed),
            column.label,
            format(number.value, ".6g"),
            f"`{number.file.relative_to(results.directory)}`",
            f"`{number.dataset}`",
        ]
        for column in columns
        for name in results.labels
        for seed, number in column.numbers[name].items()
    ]
    return markdown_table(["method", "seed", "quantity", "value", "file", "dataset"], rows)


def _html(title: str, text: str, folder: Path) -> str:
    body = MarkdownIt("commonmark").enable("table").render(text)

    def inline(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="(figures/[^"]+\.png)"', inline, body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )

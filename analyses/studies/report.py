"""The report of a study: figures, a table, verdicts, and for every number the file and dataset it was read from.

One text, `report.md`; `report.html` is the same text with the figures inside, so that it can be sent as one file.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from markdown_it import MarkdownIt

from analyses import figures
from analyses.studies.figures import FIGURES, drawable
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


def write_report(results: Results, failures: dict[Path, str]) -> Path:
    """Draw the figures and write `report.md` and `report.html` into the study's folder; returns the HTML's path."""
    folder = results.directory
    if not results.labels:
        raise ValueError(f"{folder}: expected at least one finished run to report on, found none")
    drawn = {}
    for name, wanted in drawable(results).items():
        figure = wanted.draw(results)
        drawn[name] = figures.save(figure, folder / "figures" / name.lower())[0]
        plt.close(figure)
    text = "\n\n".join(_sections(results, failures, drawn))
    (folder / "report.md").write_text(text + "\n")
    page = folder / "report.html"
    page.write_text(_html(results.study.title, text, folder))
    return page


def _sections(results: Results, failures: dict[Path, str], drawn: dict[str, Path]) -> Iterable[str]:
    study = results.study
    yield f"# {study.title}"
    if study.about:
        yield study.about.strip()
    quantities = [quantity for quantity in QUANTITIES if results.asks(quantity.analysis)]
    numbers = {quantity.name: results.numbers(quantity) for quantity in quantities}
    counts = {name: len(runs) for name, runs in results.runs.items()}
    yield (
        f"Mean ± standard error over the seeds {', '.join(map(str, study.seeds))}. Sharpness is the rise of the loss at "
        f"distance {study.sharpness_radius:g} from the final weights. The peak test accuracy is picked on the test split, "
        "hence optimistic. Gradients are the method's own: probes, evaluations and analyses are not in them."
    )
    yield "## Results"
    yield _table(results, quantities, numbers)
    incomplete = {name: count for name, count in counts.items() if count < len(study.seeds)}
    for name, count in incomplete.items():
        yield f"**{name}: {count} of {len(study.seeds)} runs are whole; the others are not in the numbers.**"
    for folder, reason in failures.items():
        yield f"- `{folder.relative_to(results.directory)}`: {reason}"
    if study.claims:
        yield "## Claims"
        yield (
            "Each claim is judged by the paired difference over seeds and its 95 % interval (Student's t): HOLDS, REVERSED, "
            "or NOT RESOLVED where the interval contains zero. Claims and statistics stand in the study's own file."
        )
        yield _claims(results)
    for name, picture in drawn.items():
        yield f"## {name}"
        yield f"![{name}]({picture.relative_to(results.directory)})"
        yield f"{FIGURES[name].caption} Bands: one standard error over seeds."
    yield "## Where each number comes from"
    yield f"Paths are relative to this report. The runs were made with {_versions(results)}."
    yield _sources(results, quantities, numbers)


def _versions(results: Results) -> str:
    """The versions that the last checkpoints of all runs name."""
    found = {
        f"torch {attributes['version_torch']}, landscape-toolkit {attributes['version_landscape_toolkit']}"
        for runs in results.runs.values()
        for attributes in (run.checkpoint("last").attributes for run in runs.values())
    }
    return "; ".join(sorted(found))


def _table(results: Results, quantities: list[Quantity], numbers: dict[str, dict[str, dict[int, Number]]]) -> str:
    head = ["method", *(f"{q.label} [{q.unit}]" for q in quantities)]
    rows = [
        [
            label,
            *(
                _cell(q, len(results.study.seeds), [n.value for n in numbers[q.name][name].values()])
                for q in quantities
            ),
        ]
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
    rows = []
    for verdict in (judge(claim, results) for claim in results.study.claims):
        claim = verdict.claim
        difference = f"{verdict.difference:+.3g} ± {verdict.half_width:.2g}"
        rows.append(
            [claim.statement, claim.source, f"`{claim.quantity}`", difference, str(verdict.seeds), verdict.word]
        )
    return markdown_table(["claim", "source", "statistic", "difference", "seeds", "verdict"], rows)


def _sources(results: Results, quantities: list[Quantity], numbers: dict[str, dict[str, dict[int, Number]]]) -> str:
    rows = [
        [
            results.labels[name],
            str(seed),
            quantity.label,
            format(number.value, ".6g"),
            f"`{number.file.relative_to(results.directory)}`",
            f"`{number.dataset}`",
        ]
        for quantity in quantities
        for name in results.labels
        for seed, number in numbers[quantity.name][name].items()
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

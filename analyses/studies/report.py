"""The report of a study: figures, a table, verdicts, and for every number the file and dataset it was read from.

It reads `claims.h5` and the files that it names, and decides nothing. One text, `report.md`; `report.html` is the same text
with the figures inside, so that it can be sent as one file.
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from markdown_it import MarkdownIt

from analyses import figures
from analyses.studies.answers import Answers
from analyses.studies.claims import Claims
from analyses.studies.figures import ReportFigure, drawable
from analyses.studies.holm import LEVEL
from analyses.studies.judge import JUDGED
from landscape.markdown import markdown_table
from landscape.store.atomic_file import write_text
from landscape.store.dataset_file import read_dataset

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
img { max-width: 100% } table { border-collapse: collapse; font-size: 80%; display: block; overflow-x: auto }
td, th { border-bottom: 1px solid #ccc; padding: .25rem .4rem; text-align: right; vertical-align: top }
td:first-child, th:first-child, p + table td, p + table th { text-align: left }
td code { font-size: 90%; overflow-wrap: anywhere }
"""


def write_report(folder: Path, root: Path) -> list[Path]:
    """Draw the figures and write `report.md` and `report.html` beside `folder`'s claims.h5; returns the files, HTML first.

    `root` is where the runs lie.
    """
    judged = read_dataset(folder / "claims.h5", JUDGED)
    claims = Claims.parse(folder.name, str(judged.attrs["claims"]), str(judged.attrs["scale"]))
    answers = Answers(claims, root)
    if not any(answers.runs.values()):
        raise ValueError(f"{folder}: expected at least one finished run to report on, found none")
    drawn: dict[str, tuple[ReportFigure, Path]] = {}
    written: list[Path] = []
    for name, (wanted, ask) in drawable(answers).items():
        figure = wanted.draw(answers, ask)
        files = figures.save(figure, folder / "figures" / name.lower())
        written += files
        drawn[name] = wanted, files[0]
        plt.close(figure)
    text = "\n\n".join(_sections(judged, claims, folder, root, drawn))
    write_text(folder / "report.md", text + "\n")
    page = folder / "report.html"
    write_text(page, _html(claims.title, text, folder))
    return [page, folder / "report.md", *written]


def _sections(
    judged: xr.Dataset, claims: Claims, folder: Path, root: Path, drawn: dict[str, tuple[ReportFigure, Path]]
) -> Iterable[str]:
    yield f"# {claims.title}"
    if claims.about:
        yield claims.about.strip()
    if claims.transformed:
        changed = "".join(f"\n- {line}" for line in claims.transformed)
        yield f"Scale `{claims.scale}`. What differs from the file's own protocol:\n{changed}"
    yield (
        "Mean ± standard error over seeds. The peak test accuracy is picked on the test split, hence optimistic. Gradients "
        "are the method's own: probes, evaluations and analyses are not in them."
    )
    yield "## Results"
    yield _table(judged, claims)
    runs = _rows(judged, "run")
    for arm in claims.arms:
        own = [run for run in runs if run["arm"] == arm]
        whole = sum(run["state"] == "whole" for run in own)
        if whole < len(own):
            yield f"**{arm}: {whole} of {len(own)} runs are whole; what the others lack is not in the numbers.**"
    for run in runs:
        if run["state"] != "whole":
            yield f"- {run['arm']}, seed {run['seed']} (`{run['digest']}`) {_state(run['state'])}: {run['reason']}"
    if claims.claims:
        yield "## Claims"
        yield (
            "Each claim is judged over all its seeds (Student's t unless its statistic says else): HOLDS, REVERSED, or NOT "
            f"RESOLVED where p ≥ {LEVEL:g} or the effect is below the smallest of interest. p is adjusted for the number of "
            f"claims in the family (Holm), so that of {1 / LEVEL:.0f} studies in which nothing is true one reports anything; "
            "the interval of 95 % beside the effect is its own. A run that diverged counts with the value that the claim "
            "registered for it; a claim with a missing run is not judged by the others. Claims and statistics stand in the "
            "study's own file."
        )
        yield _claims(judged)
    for name, (figure, picture) in drawn.items():
        yield f"## {name}"
        yield f"![{name}]({picture.relative_to(folder).as_posix()})"
        yield f"{figure.caption} Bands: one standard error over seeds."
    yield "## Where each number comes from"
    yield f"Paths are relative to this report. The runs were made with {judged.attrs['made_with']}."
    yield _sources(judged, claims, Path(os.path.relpath(root, folder)))


def _state(state: str) -> str:
    return {"incomplete": "has no answer to everything", "missing": "is missing"}.get(state, state)


def _rows(judged: xr.Dataset, dim: str) -> list[dict]:
    """The variables `dim_…` as a row for each entry along `dim`."""
    names = [str(name) for name in judged.data_vars if str(name).startswith(f"{dim}_")]
    columns = [judged[name].values.tolist() for name in names]
    keys = [name.removeprefix(f"{dim}_") for name in names]
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def _columns(judged: xr.Dataset) -> dict[str, dict]:
    """The values that some run has, by name: label, unit, format."""
    known = {row["column"] for row in _rows(judged, "number") if np.isfinite(row["value"])}
    names = judged["column"].values.tolist()
    return {name: row for name, row in zip(names, _rows(judged, "column"), strict=True) if name in known}


def _table(judged: xr.Dataset, claims: Claims) -> str:
    columns, numbers, runs = _columns(judged), _rows(judged, "number"), _rows(judged, "run")
    head = ["method", *(f"{column['label']} [{column['unit']}]" for column in columns.values())]
    rows = []
    for arm in claims.arms.values():
        own = [row for row in numbers if row["arm"] == arm.name]
        seeds = sum(run["arm"] == arm.name for run in runs)
        cells = [
            _cell(c["format"], seeds, [n["value"] for n in own if n["column"] == name]) for name, c in columns.items()
        ]
        if own:
            rows.append([arm.label, *cells])
    return markdown_table(head, rows)


def _cell(form: str, seeds: int, values: list[float]) -> str:
    known = np.array([value for value in values if np.isfinite(value)])
    if not known.size:
        return "–"
    scale, places = (100, form[:-1] + "f") if form.endswith("%") else (1, form)
    mean = format(scale * known.mean(), places)
    fewer = f" (n = {known.size})" if known.size < seeds else ""
    if known.size < 2 or not known.std():
        return mean + fewer
    return f"{mean} ± {format(scale * known.std(ddof=1) / np.sqrt(known.size), places)}{fewer}"


def _claims(judged: xr.Dataset) -> str:
    rows = [
        [
            f"{claim['verdict']}: {claim['reason']}" if claim["reason"] else claim["verdict"],
            claim["statement"],
            f"{claim['effect']:+.3g} ± {claim['half_width']:.2g}",
            str(claim["seeds"]),
            f"{claim['p_adjusted']:.2g}",
            f"{claim['statistic']} of `{claim['value']}`",
            claim["source"] + (f": {claim['published']}" if claim["published"] else ""),
        ]
        for claim in _rows(judged, "claim")
    ]
    return markdown_table(["verdict", "claim", "effect", "seeds", "p, adjusted", "statistic", "source"], rows)


def _sources(judged: xr.Dataset, claims: Claims, runs: Path) -> str:
    columns = _columns(judged)
    rows = [
        [
            claims.arms[number["arm"]].label,
            str(number["seed"]),
            columns[number["column"]]["label"],
            format(number["value"], ".6g"),
            f"`{(runs / number['file']).as_posix()}`",
            f"`{number['dataset']}`",
        ]
        for number in _rows(judged, "number")
        if number["column"] in columns and np.isfinite(number["value"])
    ]
    return markdown_table(["method", "seed", "quantity", "value", "file", "dataset"], rows)


def _html(title: str, text: str, folder: Path) -> str:
    body = MarkdownIt("commonmark").enable("table").render(text)

    def inline(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = body.replace(" ± ", "\u00a0±\u00a0")  # a number and its error stay on one line
    body = re.sub(r'src="(figures/[^"]+\.png)"', inline, body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )

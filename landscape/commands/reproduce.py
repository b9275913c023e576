"""`landscape reproduce CLAIMS [--scale tiny] [--directory runs/CLAIMS] [--runs FOLDER] [--jobs 2] [--allow package.module:factory]`."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from landscape.commands.parser import add_allow, allow, command_parser, recipe, recipes
from landscape.store import made_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def main(arguments: Sequence[str]) -> None:
    """Carry a study out: every run, every analysis, the judgement, figures, report; what is on disk is not done again."""
    parser = claims_parser("reproduce", "Train, analyse, judge, draw and report the claims of a file.")
    parser.add_argument("--jobs", type=int | None, default=None, help="Jobs at once; one for each core if left out.")
    chosen = parser.parse_args(list(arguments))
    path, folder, root = where(chosen)
    known, key = folder / "made_of.json", key_of(path, chosen.scale, folder, root)
    if made_of.unchanged(known, key):
        print(folder / "report.html")
        print(f"{folder}: nothing is missing, and no file has changed since the report", file=sys.stderr)
        return
    allow(chosen.allow)

    from analyses.studies.carrying_out import reproduce

    files, failures = reproduce(path, folder, root, scale=chosen.scale, jobs=chosen.jobs)
    print(files[0])
    if failures:
        raise RuntimeError(f"{failures} jobs failed; the report names them, and the same command tries them again")
    made_of.note(known, key, files)


def claims_parser(command: str, description: str) -> ArgumentParser:
    """The options that say which claims, at which scale, and where."""
    names = ", ".join(recipes("claims"))
    parser = command_parser(
        command, f"{description} Packaged claims: {names} ({recipe(next(iter(recipes('claims'))), 'claims')})."
    )
    parser.add_argument("claims", help="Packaged claims, or a TOML file.")
    parser.add_argument(
        "--scale", type=Literal["tiny", "small", "paper"] | None, default=None, help="If not the file's own."
    )
    parser.add_argument("--directory", type=str | None, default=None, help="Of the report; runs/CLAIMS if left out.")
    parser.add_argument(
        "--runs",
        type=str | None,
        default=None,
        help="Where the runs lie, each named by its digest; DIRECTORY/runs if left out. Files of claims that are given "
        "the same folder share their runs.",
    )
    add_allow(parser)
    return parser


def where(chosen: Namespace) -> tuple[Path, Path, Path]:
    """The claims' file, the study's folder, and the folder of the runs."""
    path = recipe(chosen.claims, "claims")
    scale = f"-{chosen.scale}" if chosen.scale else ""
    folder = Path(chosen.directory or f"runs/{path.stem}{scale}")
    return path, folder, Path(chosen.runs or folder / "runs")


def key_of(path: Path, scale: str | None, folder: Path, root: Path) -> str:
    """What decides a report beside the files of its runs: the claims, the scale, where the runs lie, and our own code."""
    here = Path(str(files("landscape"))).parent
    code = [here / name for name in ("optimizers", "landscape", "analyses")]
    decides = [
        path.read_bytes(),
        str(scale).encode(),
        os.path.relpath(root, folder).encode(),
        made_of.of_code(*code).encode(),
    ]
    return hashlib.sha256(b"\n".join(decides)).hexdigest()

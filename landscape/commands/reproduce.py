"""`landscape reproduce STUDY [--directory runs/STUDY] [--jobs 2] [--allow package.module:factory]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landscape.commands.parser import add_allow, allow, command_parser, recipe, recipes


def main(arguments: Sequence[str]) -> None:
    """Carry a study out: every run, every analysis, the figures and the report; what is on disk is not done again."""
    studies = ", ".join(recipes("studies"))
    parser = command_parser("reproduce", f"Train, analyse, draw and report a whole study. Packaged studies: {studies}.")
    parser.add_argument("study", help="A packaged study, or a TOML file.")
    parser.add_argument("--directory", type=str | None, default=None, help="Where its runs go; runs/STUDY if left out.")
    parser.add_argument("--jobs", type=int | None, default=None, help="Runs at once; one for each core if left out.")
    add_allow(parser)
    chosen = parser.parse_args(list(arguments))
    allow(chosen.allow)

    from analyses.studies.report import write_report
    from analyses.studies.reproduction import carry_out
    from analyses.studies.results import Results
    from analyses.studies.study import Study

    study = Study.read(recipe(chosen.study, "studies"))
    directory = Path(chosen.directory or f"runs/{study.name}")
    failures = carry_out(study, directory, jobs=chosen.jobs)
    print(write_report(Results(study, directory), failures))
    if failures:
        raise RuntimeError(
            f"{len(failures)} of {len(study.seeds) * len(study.methods)} runs failed; the report names them"
        )

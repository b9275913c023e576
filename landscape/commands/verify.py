"""`landscape verify RUN`: read and check every file of a run."""

from __future__ import annotations

from collections.abc import Sequence

from landscape.commands.parser import command_parser


def main(arguments: Sequence[str]) -> None:
    """Say what is wrong with which file; ValueError, hence exit code 2, if anything is."""
    parser = command_parser("verify", "Read every file of a run in full and check it. Exit code 2 if any is not right.")
    parser.add_argument("run", help="The run's folder.")
    chosen = parser.parse_args(list(arguments))

    from landscape.runs.run import Run
    from landscape.runs.verify import verify

    findings = verify(Run.open(chosen.run))
    bad = [finding for finding in findings if finding.problem]
    for finding in bad:
        print(f"{finding.path}: {finding.problem}")
    if bad:
        raise ValueError(f"{len(bad)} of {len(findings) - 1} files are not right")
    print(f"{chosen.run}: {len(findings) - 1} files, all as they were written")

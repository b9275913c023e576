"""`landscape verify RUN`."""

from __future__ import annotations

from collections.abc import Sequence

from landscape.commands.parser import command_parser


def main(arguments: Sequence[str]) -> None:
    """Read every file of a run in full and check it; fail where one is not as it was written."""
    parser = command_parser("verify", "Check every file of a run against its seal and its layout.")
    parser.add_argument("run", help="The run's folder.")
    chosen = parser.parse_args(list(arguments))

    from landscape.run import Run
    from landscape.verify import verify

    findings = verify(Run.open(chosen.run))
    for finding in findings:
        print(f"{'ok' if finding.problem is None else finding.problem:<4} {finding.path}")
    wrong = [finding for finding in findings if finding.problem is not None]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(findings)} are not as they should be: {wrong[0].path}: {wrong[0].problem}"
        )

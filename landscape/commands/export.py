"""`landscape export RUN TARGET [--step last]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landscape.commands.parser import command_parser


def main(arguments: Sequence[str]) -> None:
    """Write a checkpoint's weights (.safetensors, .pt) or a whole run (.h5) to one file."""
    parser = command_parser(
        "export", "Write a checkpoint's weights to a .safetensors, .pt or .pth file, or a whole run to one .h5 file."
    )
    parser.add_argument("run", help="The run's folder.")
    parser.add_argument("target", help="The file; its ending says what is written.")
    parser.add_argument(
        "--step", default="last", help="Of the checkpoint whose weights are written: last, first, a number."
    )
    chosen = parser.parse_args(list(arguments))

    from landscape.archive import export_archive
    from landscape.exchange import export_weights
    from landscape.run import Run

    run = Run.open(chosen.run)
    if Path(chosen.target).suffix == ".h5":
        export_archive(run, chosen.target)
    else:
        step = chosen.step if chosen.step in ("first", "last") else int(chosen.step)
        export_weights(run.checkpoint(step), chosen.target)
    print(chosen.target)

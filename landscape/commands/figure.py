"""`landscape figure FILE … [--output FOLDER]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landscape.commands.parser import add_allow, allow, command_parser


def main(arguments: Sequence[str]) -> None:
    """Draw saved analyses as PNG and PDF; needs neither the model nor the data."""
    parser = command_parser("figure", "Draw saved analyses, each as a PNG and a PDF, from their files alone.")
    parser.add_argument("files", nargs="+", help="Files of a run's analyses folder.")
    parser.add_argument("--output", default=".", help="The folder to draw into.")
    add_allow(parser)
    chosen = parser.parse_args(list(arguments)).as_dict()

    if not chosen["output"]:
        raise ValueError("--output: expected the name of a folder, got ''; write . for the working folder")

    allow(chosen["allow"])
    import analyses
    from analyses import figures
    from analyses.saved import read
    from landscape import imports

    for file in chosen["files"]:
        dataset = read(Path(file))
        with imports.from_file():  # whose code draws it stands in the file
            analysis = analyses.get(dataset.attrs.get("analysis_from", dataset.attrs["analysis"]))
        figure = analysis.draw(dataset).get_figure(root=True)
        assert figure is not None  # axes that were just drawn have one
        name = "-".join(filter(None, (dataset.attrs.get("run"), Path(file).stem)))  # two runs have files of one name
        for written in figures.save(figure, Path(chosen["output"]) / name):
            print(written)

"""Draw the demo's figures from its files alone: no model, no data, no GPU.

python notebooks/figures/demo.py [runs/demo] [output folder] [figure …]
"""

import sys
from pathlib import Path

from analyses import figures
from analyses.studies.answers import Answers
from analyses.studies.claims import Claims
from analyses.studies.figures import draw, drawable
from landscape.commands.parser import recipe


def main(directory: str = "runs/demo", output: str = "runs/demo/figures", *names: str) -> None:
    answers = Answers(Claims.read(recipe("demo", "claims")), Path(directory) / "runs")
    for name in names or drawable(answers):
        for written in figures.save(draw(answers, name), Path(output) / name.lower()):
            print(written)


if __name__ == "__main__":
    main(*sys.argv[1:])

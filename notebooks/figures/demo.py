"""Draw the demo's figures from its files alone: no model, no data, no GPU.

python notebooks/figures/demo.py [runs/demo] [output folder] [figure …]
"""

import sys
from pathlib import Path

from analyses import figures
from analyses.studies.figures import drawable
from analyses.studies.results import Results
from analyses.studies.study import Study
from landscape.commands.parser import recipe


def main(directory: str = "runs/demo", output: str = "runs/demo/figures", *names: str) -> None:
    results = Results(Study.read(recipe("demo", "studies")), Path(directory))
    known = drawable(results)
    for name in names or known:
        for written in figures.save(known[name].draw(results), Path(output) / name.lower()):
            print(written)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Which Python processes a test starts: those that start any carry the marker `processes`, so that all of them can be run
again and again (tests/soak/repeated_processes.py).
"""

import functools
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

started: list[str] = []  # by the test that runs now


def watch() -> None:
    """Note every Python process that starts from here on; of git and make no note is taken."""
    start = BaseProcess.start

    @functools.wraps(start)
    def noted(process: BaseProcess) -> None:
        started.append(type(process).__name__)
        start(process)

    BaseProcess.start = noted
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple) -> None:
    if event == "subprocess.Popen":
        program = Path(str(arguments[1][0] if isinstance(arguments[1], list | tuple) else arguments[0])).name
        if program.startswith(("python", "torchrun", "landscape")):
            started.append(program)

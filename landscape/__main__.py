"""The command line: `landscape COMMAND …`. Only this package of commands sees training and analyses both, and imports late."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from landscape.training.interruption import EXIT_CODE, Interrupted

COMMANDS = {
    "train": "run an experiment, or continue it",
    "analyze": "ask a question of a run's checkpoints",
    "figure": "draw saved analyses",
    "plan": "show what reproducing claims needs, costs and lacks",
    "reproduce": "train, analyse, judge, draw and report the claims of a file",
    "info": "show a run, a checkpoint or an analysis at a glance",
    "list": "show what can be named: optimizers, analyses, models, data sets, claims",
    "verify": "check every file of a run",
    "export": "write a run to one file, or weights for other software",
    "import": "make a run from such a file",
    "benchmark": "compare the eigenvalue solvers on a checkpoint",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 where it did its work, 2 for a wrong call or input, 75 when interrupted and resumable."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: landscape COMMAND [options]\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:<10} {purpose}")
        print(
            "\nlandscape COMMAND --help lists a command's options; LANDSCAPE_TRACEBACK=1 shows where an error came from."
        )
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"landscape-toolkit {version('landscape-toolkit')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"landscape: unknown command {name!r}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        importlib.import_module(f"landscape.commands.{name}").main(rest)
    except Interrupted as stop:
        print(f"landscape {name}: {stop}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print(f"landscape {name}: interrupted; what was finished is saved", file=sys.stderr)
        return EXIT_CODE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; that is no error of ours
    except (
        argparse.ArgumentError,
        ArithmeticError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if os.environ.get("LANDSCAPE_TRACEBACK"):
            raise
        said = error.args[0] if isinstance(error, KeyError) else error  # str of a KeyError is the repr of its message
        print(f"landscape {name}: error: {' '.join(str(said).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

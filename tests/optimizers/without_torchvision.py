"""Run a script as where torchvision is not installed: `python without_torchvision.py SCRIPT [ARGUMENTS]`.

Beside a torch from another source torchvision does not import, and trainers that find it installed fail with it.
"""

import importlib.metadata
import runpy
import sys

installed = importlib.metadata.distribution


def distribution(name: str) -> importlib.metadata.Distribution:
    if name == "torchvision":
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)


def hide() -> None:
    """From here on in this process."""
    importlib.metadata.distribution = distribution
    sys.modules["torchvision"] = None  # type: ignore[assignment]


if __name__ == "__main__":
    hide()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")

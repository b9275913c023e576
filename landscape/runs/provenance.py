"""Where a file comes from: code, versions, machine, command, time."""

from __future__ import annotations

import functools
import platform
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("landscape-toolkit", "torch", "numpy", "h5py")


def provenance() -> dict[str, str | bool]:
    """Attributes for a file: `time` (UTC), `host`, `command`, `python`, versions, `git_commit` and `git_dirty`.

    The commit is that of the working folder; both git attributes are absent outside a repository.
    """
    return {"time": datetime.now(UTC).isoformat(timespec="seconds")} | _of_this_process()


@functools.cache
def _of_this_process() -> dict[str, str | bool]:
    found: dict[str, str | bool] = {
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[f"version_{package.replace('-', '_')}"] = version(package)
        except PackageNotFoundError:  # imported from a source folder that was never installed
            continue
    found["version_torch"] = torch.__version__  # with the build, +cpu or +cu128
    return found | _git()


def _git() -> dict[str, str | bool]:
    try:
        commit = _ask_git("rev-parse", "HEAD")
        return {"git_commit": commit, "git_dirty": bool(_ask_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _ask_git(*arguments: str) -> str:
    asked = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return asked.stdout.strip()

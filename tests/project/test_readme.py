"""What the README says runs: its code, its commands, its targets, its links; and its tables are those of the registries."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from landscape.commands.list import updated

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)


def code(language: str) -> list[str]:
    return [body for kind, body in BLOCKS if kind == language]


@pytest.mark.processes
@pytest.mark.parametrize("number", range(len(code("python"))))
def test_the_python_runs(number: int, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", code("python")[number]], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


@pytest.mark.processes
def test_the_commands_run(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    commands = [line[2:] for body in code("console") for line in body.splitlines() if line.startswith("$ ")]
    assert commands
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_targets_exist() -> None:
    targets = re.findall(r"make (\w+)", TEXT)
    assert {"demo", "test", "help"} <= set(targets)
    for target in set(targets):
        subprocess.run(["make", "-n", target], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_the_tables_are_current() -> None:
    assert updated(TEXT, ROOT) == TEXT, "a registry has changed: run `make docs`"


def test_the_files_it_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:notebooks|optimizers|analyses|landscape|tests)/[\w./-]+)`", TEXT):
        assert (ROOT / path).exists(), path

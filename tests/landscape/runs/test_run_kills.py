"""A training killed fifteen times ends where an undisturbed one ends; `make soak` kills it two hundred times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "soak" / "kill_and_resume.py"


@pytest.mark.processes
@pytest.mark.slow
def test_fifteen_kills_lose_nothing():
    command = [sys.executable, str(SOAK), "--kills", "15"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counts = json.loads(ran.stdout)
    assert counts["kills"] == 15
    assert counts["bit-equal"]

"""A thousand damaged and hostile files: each refused by name and reason, none a crash, a hang or a large allocation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "soak" / "damaged_files.py"


@pytest.mark.processes
def test_a_thousand_damaged_files_are_refused():
    ran = subprocess.run(
        [sys.executable, str(CAMPAIGN), "--files", "1000"], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counts = json.loads(ran.stdout.splitlines()[-1])
    assert counts["files"] == 1000
    assert counts["not refused"] == 0
    assert counts["unchanged"] < 10

"""Every test that starts processes, again and again: what fails once in many times, or only on a busy machine, shows here.

    python tests/soak/repeated_processes.py [--rounds 50] [--busy 2] [--select "torchrun or kill"]

`--busy` keeps so many processes computing beside the tests. One line of JSON a round and one at the end; the output of a
round that fails is printed whole. Exit code 1 if any round failed.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
BUSY = "import torch\nx = torch.randn(500, 500)\nwhile True: x = (x @ x).tanh()"


def one_round(select: str) -> tuple[dict[str, int], str]:
    """How many tests passed, failed and so on, and everything that pytest said."""
    command = [sys.executable, "-m", "pytest", "-m", "processes and not gpu", "-k", select, str(TESTS)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parent)
    last = (ran.stdout.strip() or "nothing").splitlines()[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", last)}
    return counts | {"exit code": ran.returncode}, ran.stdout + ran.stderr


def main() -> None:
    """Run the rounds, say what came of each, exit 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--select", default="")
    options = parser.parse_args()
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.busy)]
    failed = 0
    try:
        for number in range(1, options.rounds + 1):
            begin = time.monotonic()
            counts, said = one_round(options.select)
            print(json.dumps({"round": number, **counts, "seconds": round(time.monotonic() - begin)}), flush=True)
            if counts["exit code"] != 0:
                failed += 1
                print(said, flush=True)
    finally:
        for other in others:
            other.kill()
    print(json.dumps({"rounds": options.rounds, "failed": failed}))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

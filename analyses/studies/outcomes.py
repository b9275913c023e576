"""What became of a run beside its files: root/<digest>.toml says which of its jobs failed, and how.

    [training]
    kind = "NonFiniteLoss"
    message = "loss at step 40 is not finite; …"

A run that diverged is an outcome and is not trained again; whatever else failed is tried at the next call. Deleting the
file is how to have it tried again.
"""

from __future__ import annotations

from pathlib import Path

import tomli_w

from analyses.studies.workers import Failure
from landscape import limited_toml
from landscape.store.atomic_file import write_text

DIVERGED = "NonFiniteLoss"
TRAINING = "training"


def path(root: Path, digest: str) -> Path:
    """The file with what failed of a run."""
    return root / f"{digest}.toml"


def failed(root: Path, digest: str) -> dict[str, Failure]:
    """What failed of a run, by job."""
    file = path(root, digest)
    try:
        table = limited_toml.loads(file.read_text(encoding="utf-8"))
        return {job: Failure(str(row["kind"]), str(row["message"])) for job, row in table.items()}
    except FileNotFoundError:
        return {}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: expected a table with kind and message for each job that failed: {error}; delete it, and the job is "
            "tried again"
        ) from error


def diverged(root: Path, digest: str) -> str | None:
    """Why a run diverged; None where it did not."""
    found = failed(root, digest).get(TRAINING)
    return found.message if found is not None and found.kind == DIVERGED else None


def note(root: Path, digest: str, job: str, failure: Failure | None) -> None:
    """Note what became of a job; None, that it was done."""
    known = failed(root, digest)
    if failure is None and job not in known:
        return
    known = {name: found for name, found in known.items() if name != job}
    if failure is not None:
        known[job] = Failure(failure.kind, failure.message[:2000])  # whatever an error has to say
    if known:
        table = {name: {"kind": found.kind, "message": found.message} for name, found in known.items()}
        write_text(path(root, digest), tomli_w.dumps(table))
    else:
        path(root, digest).unlink(missing_ok=True)

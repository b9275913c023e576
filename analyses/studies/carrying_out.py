"""From a claims file to its report: check, train, ask, judge, draw; what is on disk is not done again."""

from __future__ import annotations

from pathlib import Path

from analyses.studies.checks import check, check_runs
from analyses.studies.claims import Claims
from analyses.studies.jobs import carry_out, start
from analyses.studies.judge import JUDGED, judge
from analyses.studies.outcomes import DIVERGED
from analyses.studies.plan import Job, Plan
from analyses.studies.report import write_report
from analyses.studies.workers import Failure
from landscape.store.dataset_file import write_dataset


def complete(claims: Claims, root: Path, *, jobs: int | None = None) -> dict[Job, Failure]:
    """Train and ask what is missing of `claims` below `root`; returns what failed, a run that diverged included.

    Raises:
        ValueError: They ask for something there is not; nothing has been trained then.
        PermissionError: They name code that only their file asks to run (`landscape.imports`); nothing has been trained.
    """
    check(claims)  # before anything is trained, what can be known to be wrong
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    plan = Plan.of(claims)
    missing = plan.missing(root)
    if missing:
        start()
    wanted = {arm for job in missing for arm, _ in plan.runs[job.digest].stands_for}
    check_runs(claims, [arm for arm in claims.arms if arm in wanted])
    return carry_out(plan, root, missing, jobs=jobs, name=claims.name)


def reproduce(
    path: Path, folder: Path, root: Path, *, scale: str | None = None, jobs: int | None = None
) -> tuple[list[Path], int]:
    """The claims of a file from nothing to the report in `folder`; runs lie in `root`.

    Returns the report's HTML and all files that it was made of, and how many jobs failed. A run that diverged is an
    outcome and no failure.
    """
    claims = Claims.read(path, scale)
    failures = complete(claims, root, jobs=jobs)
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(folder / "claims.h5", judge(claims, root), JUDGED)
    pages = write_report(folder, root)
    failed = [failure for failure in failures.values() if failure.kind != DIVERGED]
    return [*pages, folder / "claims.h5", *Plan.of(claims).files(root)], len(failed)

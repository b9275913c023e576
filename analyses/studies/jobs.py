"""Carrying a plan out: every training and every ask that is missing, several at a time, each in a process of its own.

What is on disk is the state: a finished run is recognised, an interrupted one continued, an answer with a file read.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import torch
from tqdm import tqdm

from analyses.saved import analyze
from analyses.studies import outcomes
from analyses.studies.claim import Ask
from analyses.studies.plan import Job, Plan, answer_file, steps_of
from analyses.studies.workers import Failure, in_processes, serve
from landscape import imports
from landscape.recipe import Recipe, loads
from landscape.runs.run import Run
from landscape.training.training import train

# what jobs import; the server does it once. torch imports its compiler, for two seconds, at an optimizer's first step
PRELOADED = (
    "analyses.studies.jobs",
    "torch._dynamo",
    "sklearn.datasets",
    "sklearn.datasets.data",
    "landscape.models",
    "landscape.objective.objective",
)


def carry_out(
    plan: Plan, root: Path, missing: list[Job], *, jobs: int | None = None, name: str = "jobs"
) -> dict[Job, Failure]:
    """Do what is `missing` of `plan` below `root`; returns what failed, a run that diverged included.

    `jobs` go on at once, each with its share of this process's threads (`torch.get_num_threads`); left out, one for each
    core. One that fails, or is killed, does not stop the others; the asks of a run that was not trained are not begun.
    What failed is noted beside the run (`outcomes`).
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or cores, max(1, len(missing)))
    # not of the cores: OMP_NUM_THREADS is the user's word; two threads on cores that others use take eight times as long
    threads = max(1, torch.get_num_threads() // jobs)
    root.mkdir(parents=True, exist_ok=True)
    tasks = {}
    for job in missing:
        recipe = Recipe(plan.runs[job.digest].experiment, plan.runs[job.digest].execution)
        tasks[job] = recipe.to_toml(), root / job.digest, job.ask, threads
    after = {job: Job(job.digest) for job in missing if job.ask is not None}
    failures: dict[Job, Failure] = {}
    with (
        closing(in_processes(_do, tasks, at_once=jobs, after=after)) as done,
        tqdm(total=len(tasks), desc=name, unit="job", disable=not tasks) as bar,
    ):
        for job, failure in done:
            bar.update()
            outcomes.note(root, job.digest, job.name, failure)
            if failure is not None:
                failures[job] = failure
                what = "diverged" if failure.kind == outcomes.DIVERGED else f"failed: {failure.kind}"
                bar.write(f"{root / job.digest}, {job.name} {what}: {failure.message}", file=sys.stderr)
    return failures


def start() -> None:
    """Let the server import what jobs need while this process still checks."""
    serve(*PRELOADED)


def _do(recipe: str, folder: Path, ask: Ask | None, threads: int) -> None:
    torch.set_num_threads(threads)
    experiment, execution = loads(recipe)
    imports.allow(*experiment.code)  # the parent has run them: it was allowed to
    if ask is None:
        train(experiment, folder, execution=execution, progress=False)
        return
    imports.allow(ask.analysis)
    run = Run.open(folder)
    for step in steps_of(ask, run):
        if not answer_file(run, ask, step).exists():
            analyze(
                run, ask.analysis, step=step, **{k: v for k, v in ask.chosen.items() if k != "options"}, **ask.options
            )

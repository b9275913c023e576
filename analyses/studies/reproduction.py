"""Carrying a study out: every run trained and analysed, several at a time, nothing done twice.

What is on disk is the state: a finished run is recognised, an interrupted one continued, an analysis with a file read.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import tomli_w
import torch
from tqdm import tqdm

from analyses.saved import analyze
from analyses.studies.checks import check, check_runs
from analyses.studies.results import DIVERGED, question_file
from analyses.studies.study import Question, Study
from analyses.studies.workers import Failure, in_processes
from landscape import imports
from landscape.experiment import Experiment
from landscape.recipe import Recipe
from landscape.runs.run import Run
from landscape.store.atomic_file import write_text
from landscape.training.training import NonFiniteLoss, train


def carry_out(study: Study, directory: Path, *, jobs: int | None = None) -> dict[Path, str]:
    """Train and analyse every run of `study` below `directory`; returns what failed: the run's folder and the reason.

    `jobs` runs go on at once, each in a process of its own with its share of this one's threads
    (`torch.get_num_threads`); left out, one for each core.
    One run that fails does not stop the others; one whose loss diverged is noted as an outcome (`Results.diverged`).

    Raises:
        ValueError: The study asks for something there is not; nothing has been trained then.
        PermissionError: It names code that only its file asks to run (`landscape.imports`); nothing has been trained then.
    """
    check(study)  # before anything is trained, what can be known to be wrong
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    runs = {folder: (method, seed) for method, seed, folder in study.runs(directory)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or cores, len(runs))
    # not of the cores: OMP_NUM_THREADS is the user's word; two threads on cores that others use take eight times as long
    threads = max(1, torch.get_num_threads() // jobs)
    recipes = {folder: study.recipe_of(method, seed) for folder, (method, seed) in runs.items()}
    tasks = {
        folder: (recipe, folder, study.questions, threads)
        for folder, recipe in recipes.items()
        if not _whole(recipe.experiment, folder, study.questions)  # what is done needs no process
    }
    check_runs(study, {runs[folder][0].name: runs[folder][0] for folder in tasks}.values())
    failures: dict[Path, Failure] = {}
    with closing(in_processes(_one_run, tasks, at_once=jobs)) as done:
        for folder, failure in tqdm(done, total=len(tasks), desc=study.name, unit="run"):
            if failure is not None:
                failures[folder] = failure
                print(f"{folder} failed: {failure}", file=sys.stderr)
    diverged: dict[str, dict[str, str]] = {}
    for folder, failure in failures.items():
        if failure.kind == NonFiniteLoss.__name__:
            method, seed = runs[folder]
            diverged.setdefault(method.name, {})[str(seed)] = failure.message
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / DIVERGED, tomli_w.dumps(diverged))
    return {folder: str(failure) for folder, failure in failures.items()}


def _whole(experiment: Experiment, folder: Path, questions: list[Question]) -> bool:
    """Whether a run is trained as asked and has every answer."""
    if not (folder / "experiment.toml").exists():
        return False
    try:
        run = Run.open(folder)
        return (
            run.experiment == experiment
            and run.finished
            and all(
                question_file(run, question, step).exists() for question in questions for step in question.steps_of(run)
            )
        )
    except (OSError, ValueError):  # damaged: its own process says so
        return False


def _one_run(recipe: Recipe, folder: Path, questions: list[Question], threads: int) -> None:
    torch.set_num_threads(threads)
    imports.allow(*recipe.experiment.code)  # the parent has run them: it was allowed to
    run = train(recipe.experiment, folder, execution=recipe.execution, progress=False)
    for question in questions:
        for step in question.steps_of(run):
            if not question_file(run, question, step).exists():
                analyze(
                    run,
                    question.name,
                    step=step,
                    split=question.split,
                    examples=question.examples,
                    dtype=question.dtype,
                    **question.options,
                )

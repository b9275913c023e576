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
from analyses.studies.checks import check
from analyses.studies.results import DIVERGED, question_file
from analyses.studies.study import Method, Question, Study
from analyses.studies.workers import Failure, in_processes
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.store.atomic_file import write_text
from landscape.training.training import NonFiniteLoss, train


def carry_out(study: Study, directory: Path, *, jobs: int | None = None) -> dict[Path, str]:
    """Train and analyse every run of `study` below `directory`; returns what failed: the run's folder and the reason.

    `jobs` runs go on at once, each in a process of its own with its share of the cores; left out, one for each core.
    One run that fails does not stop the others; one whose loss diverged is noted as an outcome (`Results.diverged`).

    Raises:
        ValueError: The study asks for something there is not; nothing has been trained then.
    """
    check(study)
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    runs = {folder: (method, seed) for method, seed, folder in study.runs(directory)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or cores, len(runs))
    tasks = {
        folder: (study.experiment_of(method, seed).to_toml(), folder, study.questions, max(1, cores // jobs))
        for folder, (method, seed) in runs.items()
        if not _whole(study.experiment_of(method, seed), folder, study.questions)  # what is done needs no process
    }
    failures: dict[Path, Failure] = {}
    with closing(in_processes(_one_run, tasks, at_once=jobs)) as done:
        for folder, failure in tqdm(done, total=len(tasks), desc=study.name, unit="run"):
            if failure is not None:
                failures[folder] = failure
                print(f"{folder} failed: {failure}", file=sys.stderr)
    _note_diverged(directory, {runs[folder]: f for folder, f in failures.items() if f.kind == NonFiniteLoss.__name__})
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


def _note_diverged(directory: Path, failures: dict[tuple[Method, int], Failure]) -> None:
    table: dict[str, dict[str, str]] = {}
    for (method, seed), failure in failures.items():
        table.setdefault(method.name, {})[str(seed)] = failure.message
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / DIVERGED, tomli_w.dumps(table))


def _one_run(experiment: str, folder: Path, questions: list[Question], threads: int) -> None:
    torch.set_num_threads(threads)
    run = train(Experiment.from_toml(experiment), folder, progress=False)
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

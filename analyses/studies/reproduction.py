"""Carrying a study out: every run trained and analysed, several at a time, nothing done twice.

What is on disk is the state: a finished run is recognised, an interrupted one continued, an analysis with a file read.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

import analyses
from analyses.saved import analyze
from analyses.studies.results import quantity, question_file
from analyses.studies.study import Question, Study
from landscape.experiment import Experiment
from landscape.training.training import train


def carry_out(study: Study, directory: Path, *, jobs: int | None = None) -> dict[Path, str]:
    """Train and analyse every run of `study` below `directory`; returns what failed: the run's folder and the reason.

    `jobs` runs go on at once, each in a process of its own with its share of the cores; left out, one for each core.
    One run that fails (a diverged loss, say) does not stop the others.
    """
    # an unknown name is an error now, not after the training
    for question in study.questions:
        analyses.get(question.name)
    for claim in study.claims:
        quantity(claim.quantity)
    tasks = [
        (study.experiment_of(method, seed).to_toml(), folder, study.questions, 1)
        for method, seed, folder in study.runs(directory)
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = max(1, min(jobs or cores, len(tasks)))
    tasks = [(*task[:3], max(1, cores // jobs)) for task in tasks]
    failures: dict[Path, str] = {}
    # spawn: a forked child would inherit torch's threads in an unknown state
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running: dict[Future[None], Path] = {pool.submit(_one_run, *task): task[1] for task in tasks}
        try:
            for future in tqdm(as_completed(running), total=len(running), desc=study.name, unit="run"):
                error = future.exception()
                if error is not None:
                    failures[running[future]] = f"{type(error).__name__}: {error}"
                    print(f"{running[future]} failed: {error}", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


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

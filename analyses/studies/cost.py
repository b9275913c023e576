"""What a plan costs: gradients and checkpoints before anything is trained, hours where a run of the same arm was timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optimizers
from analyses.saved import read
from analyses.studies.checks import Rehearsed
from analyses.studies.claim import Ask
from analyses.studies.plan import Job, Plan, PlannedRun, answer_file, answered, steps_of, trained
from landscape.recipe import Recipe


@dataclass(frozen=True)
class Cost:
    """Gradient evaluations, bytes on disk and hours of one process; None is not known yet."""

    gradients: float | None
    bytes: float | None
    hours: float | None

    def __add__(self, other: Cost) -> Cost:
        """Both; what one does not know, the sum does not."""

        def both(a: float | None, b: float | None) -> float | None:
            return None if a is None or b is None else a + b

        return Cost(both(self.gradients, other.gradients), both(self.bytes, other.bytes), both(self.hours, other.hours))


NOTHING = Cost(0, 0, 0)


class Costs:
    """What the jobs of a plan cost; `rehearsed` by arm, timings from what lies below `root` already.

    A training's gradients are the method's own, with its default options and at most, and two for each probe. An ask's are
    those of one run that was asked the same, a Hessian product counted as two.
    """

    def __init__(self, plan: Plan, root: Path, rehearsed: Mapping[str, Rehearsed]) -> None:
        self.plan = plan
        self.root = root
        self.rehearsed = rehearsed
        self._asks: dict[str, Cost] = {}
        self._hours: dict[str, float] = {}
        for digest, planned in plan.runs.items():
            run = trained(root / digest, planned.experiment)
            if run is None:
                continue
            arm = planned.stands_for[0][0]
            if arm not in self._hours and "seconds" in run.metrics:
                self._hours[arm] = float(run.metrics["seconds"][-1]) / 3600
            for name, ask in planned.asks.items():
                if name not in self._asks and answered(run, ask):
                    files = [answer_file(run, ask, step) for step in steps_of(ask, run)]
                    self._asks[name] = _measured(files, ask)

    def of(self, job: Job) -> Cost:
        """What one job costs."""
        planned = self.plan.runs[job.digest]
        arm = planned.stands_for[0][0]
        if job.ask is not None:
            return self._asks.get(job.ask.name, Cost(None, None, None))
        return Cost(*_training(planned, self.rehearsed[arm]), self._hours.get(arm))


def _training(planned: PlannedRun, rehearsed: Rehearsed) -> tuple[float, float]:
    experiment = planned.experiment
    gradients = max(optimizers.describe(experiment.optimizer).gradients(rehearsed.steps))
    every = planned.execution.probe_every
    probes = -(-rehearsed.steps // every) if every else 0
    checkpoints = rehearsed.scheduled(Recipe(experiment, planned.execution))
    return gradients + 2 * probes, len(checkpoints) * rehearsed.checkpoint_bytes


def _measured(files: list[Path], ask: Ask) -> Cost:
    attributes = [read(file, ask.analysis.rpartition(":")[2]).attrs for file in files]
    return Cost(
        sum(a["gradient_evaluations"] + 2 * a["hessian_products"] for a in attributes),
        sum(file.stat().st_size for file in files),
        sum(a["seconds"] for a in attributes) / 3600,
    )

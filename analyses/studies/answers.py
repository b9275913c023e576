"""The metrics and answers of all runs as figures want them: Datasets over seeds and steps, arms by label."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from analyses.saved import read
from analyses.studies.claim import Ask
from analyses.studies.claims import Claims
from analyses.studies.plan import answer_file, answered, steps_of, trained
from landscape.runs.run import Run


class Answers:
    """The runs of `claims` below `root` that are trained; each file is read once."""

    def __init__(self, claims: Claims, root: Path) -> None:
        self.claims = claims
        self.root = root
        self._known: dict[Path, xr.Dataset] = {}
        self.runs: dict[str, dict[int, Run]] = {}  # of each arm by seed
        found: dict[str, Run | None] = {}
        for arm in claims.arms:
            self.runs[arm] = {}
            for seed in claims.seeds_of(arm):
                experiment = claims.experiment_of(arm, seed)
                if experiment.digest not in found:
                    found[experiment.digest] = trained(root / experiment.digest, experiment)
                run = found[experiment.digest]
                if run is not None:
                    self.runs[arm][seed] = run

    def read(self, file: Path, analysis: str) -> xr.Dataset:
        """One saved answer."""
        if file not in self._known:
            self._known[file] = read(file, analysis)
        return self._known[file]

    def asked(self, analysis: str) -> list[Ask]:
        """The asks of an analysis that any run has an answer to at its last checkpoint."""
        return [
            ask
            for ask in self.claims.asks.values()
            if ask.analysis == analysis and any(self._at_end(ask, run) for runs in self._of(ask) for run in runs)
        ]

    def metrics(self) -> dict[str, xr.Dataset]:
        """Each arm's training metrics, with a dimension `seed`; arms by label."""
        return {
            self.claims.arms[arm].label: xr.concat([run.metrics for run in runs.values()], dim=_seeds(runs))
            for arm, runs in self.runs.items()
            if runs
        }

    def series(self, ask: Ask) -> dict[str, xr.Dataset]:
        """Each arm's answers to an ask, with dimensions `seed` and `step`; arms by label."""
        return {
            label: xr.concat([self._over_steps(run, ask) for run in runs.values()], _seeds(runs))
            for label, runs in self._whole(ask).items()
        }

    def final(self, ask: Ask) -> dict[str, xr.Dataset]:
        """As `series`, at the last checkpoint alone."""
        return {
            label: xr.concat(
                [self._answer(run, ask, run.steps[-1]) for run in runs.values()], _seeds(runs), combine_attrs="override"
            )
            for label, runs in self._whole(ask).items()
        }

    def _of(self, ask: Ask) -> list[list[Run]]:
        return [list(runs.values()) for arm, runs in self.runs.items() if ask.arms is None or arm in ask.arms]

    def _at_end(self, ask: Ask, run: Run) -> bool:
        return run.steps[-1] in steps_of(ask, run) and answered(run, ask)

    def _whole(self, ask: Ask) -> dict[str, dict[int, Run]]:
        """By label, the runs with every answer to an ask."""
        found = {
            self.claims.arms[arm].label: {seed: run for seed, run in runs.items() if answered(run, ask)}
            for arm, runs in self.runs.items()
            if ask.arms is None or arm in ask.arms
        }
        return {label: runs for label, runs in found.items() if runs}

    def _over_steps(self, run: Run, ask: Ask) -> xr.Dataset:
        steps = steps_of(ask, run)
        found = [self._answer(run, ask, step) for step in steps]
        # what only some checkpoints have (there is no momentum before the first step) is NaN at the others
        return xr.concat(found, xr.DataArray(steps, dims="step", name="step"), join="outer", combine_attrs="override")

    def _answer(self, run: Run, ask: Ask, step: int) -> xr.Dataset:
        return self.read(answer_file(run, ask, step), ask.analysis.rpartition(":")[2])


def _seeds(runs: dict[int, Run]) -> xr.DataArray:
    return xr.DataArray(list(runs), dims="seed", name="seed")

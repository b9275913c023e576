"""The runs that claims need, by digest, and what is asked of each: two arms or two files that want the same run share it.

plan = Plan.of(Claims.read(path))
plan.missing(root)        jobs that are still to be done; root/<digest> is a run's folder
plan.cost(root)           gradients, bytes, hours
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from analyses.saved import analysis_path
from analyses.studies import outcomes
from analyses.studies.claim import Ask
from analyses.studies.claims import Claims
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run


@dataclass(frozen=True)
class Job:
    """One piece of work for one process: the training of a run, or one ask of all its checkpoints."""

    digest: str
    ask: Ask | None = field(default=None, hash=False)  # it has tables

    @property
    def name(self) -> str:
        """`training`, or the ask's name."""
        return "training" if self.ask is None else self.ask.name

    def command(self, root: Path) -> str:
        """The command line that does the same."""
        folder = root / self.digest
        if self.ask is None:
            return f"landscape train {folder} -c {folder / 'experiment.toml'}"
        ask = self.ask
        steps = ",".join(map(str, ask.steps)) if isinstance(ask.steps, list) else ask.steps
        chosen = {key: value for key, value in ask.chosen.items() if key != "options"} | ask.options
        said = [
            f"--{key} {value}" for key, value in chosen.items() if value not in (None, "train", 0) or key in ask.options
        ]
        return " ".join([f"landscape analyze {folder} {ask.analysis} --steps {steps}", *said])


@dataclass(frozen=True)
class PlannedRun:
    """An experiment and how to carry it out, the arms and seeds that it stands for, and what is asked of it."""

    experiment: Experiment
    execution: Execution
    stands_for: list[tuple[str, int]] = field(default_factory=list)
    asks: dict[str, Ask] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Runs by digest; one seed of every arm before the next seed."""

    runs: dict[str, PlannedRun]

    @classmethod
    def of(cls, *all_claims: Claims) -> Plan:
        """The union of what all these claims need."""
        runs: dict[str, PlannedRun] = {}
        for claims in all_claims:
            seeds = {arm: claims.seeds_of(arm) for arm in claims.arms}
            for seed in dict.fromkeys(seed for each in seeds.values() for seed in each):
                for arm in (arm for arm in claims.arms if seed in seeds[arm]):
                    recipe = claims.recipe_of(arm, seed)
                    run = runs.setdefault(recipe.experiment.digest, PlannedRun(*recipe))
                    run.stands_for.append((arm, seed))
                    asked = (ask for ask in claims.asks.values() if ask.arms is None or arm in ask.arms)
                    run.asks.update({_identity(ask, run.asks): ask for ask in asked})
        return cls(runs)

    def missing(self, root: Path) -> list[Job]:
        """What is still to be done, each run's training before its asks; a run that diverged is not trained again."""
        return [job for digest in self.runs for job in self._missing_of(root, digest)]

    def _missing_of(self, root: Path, digest: str) -> Iterator[Job]:
        planned = self.runs[digest]
        run = trained(root / digest, planned.experiment)
        if run is None:
            if outcomes.diverged(root, digest):
                return
            yield Job(digest)
        else:
            _require_recorded(run, planned.execution)
        yield from (Job(digest, ask) for ask in planned.asks.values() if run is None or not answered(run, ask))

    def files(self, root: Path) -> Iterator[Path]:
        """Every file of ours that a whole plan reads."""
        for digest, planned in self.runs.items():
            note = outcomes.path(root, digest)
            if note.exists():
                yield note
            run = trained(root / digest, planned.experiment)
            if run is not None:
                yield run.path / "experiment.toml"
                yield from map(run.checkpoint_path, run.steps)
                yield from (answer_file(run, ask, step) for ask in planned.asks.values() for step in steps_of(ask, run))


def _identity(ask: Ask, known: dict[str, Ask]) -> str:
    """The name of an ask among those of one run; two files may call different ones alike."""
    name = ask.name
    while name in known and known[name] != ask:
        name += "+"
    return name


def trained(folder: Path, experiment: Experiment) -> Run | None:
    """The finished run in `folder`; None where there is none, or it is damaged, which training it says."""
    if not (folder / "experiment.toml").exists():
        return None
    try:
        run = Run.open(folder)
        return run if run.experiment.digest == experiment.digest and run.finished else None
    except (OSError, ValueError):
        return None


def _require_recorded(run: Run, execution: Execution) -> None:
    """Refuse a run whose numbers were recorded otherwise than is asked: neither is training it again what is missing."""
    found = run.checkpoint("last").execution
    same = {name: getattr(execution, name) for name in ("device", "workers", "resident")}  # these decide no number
    if found.replace(**same) != execution:
        raise ValueError(
            f"{run.path}: the same experiment was recorded under another execution "
            f"({found.replace(**same).difference(execution)}); expected the claims' own: change [execution], or give "
            "another --runs folder"
        )


def steps_of(ask: Ask, run: Run) -> list[int]:
    """The checkpoints of `run` that are asked; those that an interruption left between the scheduled ones are not."""
    if isinstance(ask.steps, list):
        return ask.steps
    if ask.steps == "all":
        every = run.checkpoint("last").execution.checkpoint_every * run.steps[-1] // run.experiment.epochs
        return [step for step in run.steps if step % every == 0 or step == run.steps[-1]]
    return [run.steps[0 if ask.steps == "first" else -1]]


def answered(run: Run, ask: Ask) -> bool:
    """Whether every answer to an ask is there; of a damaged run none is, which the job then says."""
    try:
        return all(answer_file(run, ask, step).exists() for step in steps_of(ask, run))
    except (OSError, ValueError):
        return False


def answer_file(run: Run, ask: Ask, step: int) -> Path:
    """The file of the answer to an ask."""
    return analysis_path(run, ask.analysis, step, **ask.chosen)

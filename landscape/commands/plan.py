"""`landscape plan CLAIMS [--scale tiny] [--directory runs/CLAIMS] [--runs FOLDER]`."""

from __future__ import annotations

from collections.abc import Sequence

from landscape.commands.parser import allow
from landscape.commands.reproduce import claims_parser, where
from landscape.markdown import markdown_table


def main(arguments: Sequence[str]) -> None:
    """Print the runs that claims need, what is asked of each, what it costs, and what is missing; trains nothing."""
    parser = claims_parser(
        "plan",
        "Show what `landscape reproduce` would do: runs, asks, gradients, bytes, and what is missing. The first steps of "
        "each arm are tried and forgotten.",
    )
    chosen = parser.parse_args(list(arguments))
    allow(chosen.allow)

    from analyses.studies.checks import check, check_runs
    from analyses.studies.claims import Claims
    from analyses.studies.cost import NOTHING, Costs
    from analyses.studies.plan import Job, Plan

    path, _, root = where(chosen)
    claims = Claims.read(path, chosen.scale)
    check(claims)
    plan = Plan.of(claims)
    missing = plan.missing(root)
    wanted = {arm for run in plan.runs.values() for arm, _ in run.stands_for}
    costs = Costs(plan, root, check_runs(claims, [arm for arm in claims.arms if arm in wanted]))
    rows = []
    for digest, run in plan.runs.items():
        lacks = [job.name for job in missing if job.digest == digest]
        cost = costs.of(Job(digest))
        arms = ", ".join(f"{arm} {seed}" for arm, seed in run.stands_for)
        rows.append([digest, arms, _number(cost.gradients), ", ".join(run.asks) or "–", ", ".join(lacks) or "–"])
    print(markdown_table(["run", "arm and seed", "gradients of its training", "asks", "missing"], rows))
    asks = sum(len(run.asks) for run in plan.runs.values())
    print(f"\n{claims.name}, scale {claims.scale}: {len(plan.runs)} runs, {asks} asks, {len(claims.claims)} claims")
    for line in claims.transformed:
        print(f"  {line}")
    everything = [
        *map(Job, plan.runs),
        *(Job(digest, ask) for digest, run in plan.runs.items() for ask in run.asks.values()),
    ]
    for name, jobs in (("in all", everything), ("missing", missing)):
        trainings = [job for job in jobs if job.ask is None]
        asked = [job for job in jobs if job.ask is not None]
        for what, some in (("trainings", trainings), ("asks", asked)):
            total = sum(map(costs.of, some), NOTHING)
            print(
                f"{name}: {len(some)} {what}, {_number(total.gradients)} gradients, "
                f"{_number(None if total.bytes is None else total.bytes / 1e6)} MB, {_number(total.hours)} hours of one process"
            )


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"

"""The side of zero on which a value lies, such as a cosine that is said to be negative: Student's t-test over seeds."""

from __future__ import annotations

from analyses.studies.statistics.finding import Finding, Table, of_each_seed, statistic


@statistic("sign", arms=(1, 1))
def sign(table: Table) -> Finding:
    """x_s itself, against zero."""
    return of_each_seed(table.values[0], table.direction)

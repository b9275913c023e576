"""One arm beside another: the mean over seeds of x(first) − x(second), Student's paired t-test."""

from __future__ import annotations

from analyses.studies.statistics.finding import Finding, Table, of_each_seed, statistic


@statistic("difference", arms=(2, 2))
def difference(table: Table) -> Finding:
    """d_s = x(first, s) − x(second, s)."""
    return of_each_seed(table.values[0] - table.values[1], table.direction)

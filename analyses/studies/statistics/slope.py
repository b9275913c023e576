r"""Whether a value rises or falls with the numbers that belong to the arms: each seed's least-squares slope, then Student's t.

b_s = Σ_a (l_a − l̄) x(a, s) / Σ_a (l_a − l̄)²
"""

from __future__ import annotations

from analyses.studies.statistics.finding import Finding, Table, of_each_seed, statistic


@statistic("slope", arms=(2, None), numbers="levels")
def slope(table: Table) -> Finding:
    """The mean over seeds of the slope of the value against `levels`."""
    assert table.levels is not None
    centred = table.levels - table.levels.mean()
    return of_each_seed(centred @ table.values / (centred @ centred), table.direction)

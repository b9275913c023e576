r"""Whether two arms are the same up to a margin, which the claim says as `min_effect`: two one-sided t-tests.

    |δ| < m  where both  δ > −m  and  δ < m  are significant;  the reverse where  δ > m  or  δ < −m  is

That nothing was found is no equivalence: few seeds leave it open. Both answers can be wrong, so p is twice the smaller.

Reference: Schuirmann 1987, https://doi.org/10.1007/BF01068419.
"""

from __future__ import annotations

from analyses.studies.holm import compare
from analyses.studies.statistics.finding import Finding, Table, sides, statistic


@statistic("equivalence", arms=(2, 2), directions=("equal",))
def equivalence(table: Table) -> Finding:
    """The effect is the mean over seeds of x(first) − x(second)."""
    differences = table.values[0] - table.values[1]
    found = compare(differences)
    inside = max(sides(differences - table.margin)[0], sides(differences + table.margin)[1])
    outside = min(sides(differences - table.margin)[1], sides(differences + table.margin)[0])
    p = min(1.0, 2 * min(inside, outside))
    return Finding(found.difference, found.half_width, p, inside <= outside)

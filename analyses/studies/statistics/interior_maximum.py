r"""Whether a value is largest inside a row of arms and not at its ends; for the direction `less`, smallest.

An arm inside is the place of a maximum if it lies above the first and above the last arm, both (intersection–union).
Which of the K arms inside it is was not said before: the best p is taken K-fold (Bonferroni), and twice, since a row
that is lower inside than at both ends is the reverse.
"""

from __future__ import annotations

from analyses.studies.holm import compare
from analyses.studies.statistics.finding import Finding, Table, sides, statistic


@statistic("interior_maximum", arms=(3, None))
def interior_maximum(table: Table) -> Finding:
    """The effect is what the best arm inside is above (below) the nearer of the two ends."""
    first, *inside, last = table.values
    below, above = [], []
    for k, values in enumerate(inside):
        ends = values - first, values - last
        below.append((max(sides(end)[0] for end in ends), k))
        above.append((max(sides(end)[1] for end in ends), k))
    (low, lowest), (high, highest) = min(below), min(above)
    maximum = high <= low
    place = inside[highest if maximum else lowest]
    found = [compare(place - end) for end in (first, last)]
    nearer = (min if maximum else max)(found, key=lambda one: one.difference)
    p = min(1.0, 2 * len(inside) * min(high, low))
    return Finding(nearer.difference, nearer.half_width, p, maximum == (table.direction == "greater"))

r"""Whether a value rises (or falls) at every step from one arm to the next, in the order in which the claim lists them.

All steps must be significant, each for itself (intersection–union: its p is the largest of the steps', and no correction
for their number is needed). Rising and falling are both asked, so p is twice the smaller.

Reference: Berger 1982, https://doi.org/10.1080/00401706.1982.10487790.
"""

from __future__ import annotations

import numpy as np

from analyses.studies.holm import compare
from analyses.studies.statistics.finding import Finding, Table, sides, statistic


@statistic("order", arms=(2, None))
def order(table: Table) -> Finding:
    """The effect is the smallest step."""
    steps = np.diff(table.values, axis=0)
    falls, rises = (max(each) for each in zip(*map(sides, steps), strict=True))
    means = steps.mean(axis=1)
    weakest = int(means.argmin() if rises <= falls else means.argmax())
    found = compare(steps[weakest])
    p = min(1.0, 2 * min(rises, falls))
    return Finding(found.difference, found.half_width, p, (rises <= falls) == (table.direction == "greater"))

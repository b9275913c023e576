r"""Whether arms with a larger number have a larger value: each seed's Kendall τ_b over arms, then Student's t over seeds.

    τ_b = Σ_{a<b} sign(x_a − x_b) sign(y_a − y_b) / √(n_x n_y),   n: the pairs that are not tied

`levels` are the numbers; or `against` names a second value of the same runs, as sharpness against the gap.

Reference: Kendall 1945, https://doi.org/10.1093/biomet/33.3.239.
"""

from __future__ import annotations

import numpy as np

from analyses.studies.statistics.finding import Finding, Table, of_each_seed, statistic


@statistic("rank_correlation", arms=(3, None), numbers="either")
def rank_correlation(table: Table) -> Finding:
    """The mean over seeds of τ_b."""
    seeds = table.values.shape[1]
    against = table.against
    if against is None:
        assert table.levels is not None
        against = np.tile(table.levels, (seeds, 1)).T
    return of_each_seed(np.array([kendall(table.values[:, s], against[:, s]) for s in range(seeds)]), table.direction)


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """τ_b of two rows; 0 where all of one are tied, which says nothing."""
    a, b = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    pairs = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / pairs if pairs else 0.0

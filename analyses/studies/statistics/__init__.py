"""What decides a claim: a table of one value over arms and seeds becomes an effect, its interval, a p and a side."""

from analyses.studies.statistics import (  # noqa: F401  (they enter themselves)
    difference,
    equivalence,
    interior_maximum,
    order,
    rank_correlation,
    sign,
    slope,
)
from analyses.studies.statistics.finding import Finding, Statistic, Table, by_name, statistic

__all__ = ["Finding", "Statistic", "Table", "by_name", "statistic"]

"""Other parameters than the one that is not finite are climbed along all the same."""

from expectations import Expected

EXPECTED = Expected(
    compiles_step=True,
    skips=lambda at, passes: False,
    sparse_with={"but": True},
    other_settings={"but": ({}, {"but": True}), "adaptive": ({}, {"adaptive": True})},
)

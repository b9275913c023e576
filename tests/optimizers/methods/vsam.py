"""vSAM reads once a window, at its start."""

from expectations import Expected

EXPECTED = Expected(
    compiles_step=True,
    reading={"short windows": ({"warmup": 3, "window": 4}, lambda steps: len(range(3, steps, 4)))},
    other_settings={"window": ({}, {"window": 10})},
)

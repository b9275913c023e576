"""The plainest of two gradients."""

from expectations import Expected

EXPECTED = Expected(compiles_step=True)

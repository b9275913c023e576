"""Its state is that of one interval and one weight of what is reused."""

from expectations import Expected

EXPECTED = Expected(
    compiles_step=True, other_settings={"k": ({"k": 5}, {"k": 2}), "alpha": ({"alpha": 0.7}, {"alpha": 0.1})}
)

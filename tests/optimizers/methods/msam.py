"""Where weight decay acts is part of the state."""

from expectations import Expected

EXPECTED = Expected(compiles_step=True, other_settings={"decay": ({}, {"weight_decay_at": "perturbed"})})

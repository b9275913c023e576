"""Friendly SAM's average learns from every gradient it is shown."""

from expectations import Expected

EXPECTED = Expected(
    learns_from_failed_steps=True,
    reading={"automatic": ({"lmbda": "auto"}, lambda steps: 0)},
    other_settings={"lmbda": ({}, {"lmbda": 0.5})},
)

"""Noise knows no gradient and is never zero; it is drawn on the device."""

from expectations import Expected

EXPECTED = Expected(length_without_gradient=1.0, draws_on_device=True)

"""g, then g_s, then two passes for the Hessian product, which is left out where it is not finite.

In the third, g of the product, what a hook puts in has no derivative.
"""

from expectations import Expected

EXPECTED = Expected(
    descends=lambda at, passes: at == 2,
    skips=lambda at, passes: at <= passes and at not in (2, 3),
)

"""erf, tanh and rsqrt: a division each, no exponential and no branch."""

from __future__ import annotations

from collections.abc import Sequence

from kaoken.passes.math import coefficients as c
from kaoken.passes.math.emit import Value, at_least, at_most, fma, horner, square_root


def erf(x: Value) -> Value:
    """16 ops of which a division, at most 3 ulp, also for tiny x; 1 from 3.84 on, never more."""
    return odd_rational(x, c.ERF_CLAMP, c.ERF_NUMERATOR, c.ERF_DENOMINATOR, c.ERF_OFFSET)


def tanh(x: Value) -> Value:
    """14 ops of which a division, at most 3 ulp, also for tiny x; 1 from 8.6 on, never more."""
    return odd_rational(x, c.TANH_CLAMP, c.TANH_NUMERATOR, c.TANH_DENOMINATOR, c.TANH_OFFSET)


def odd_rational(
    x: Value, clamp: float, above: Sequence[float], below: Sequence[float], offset: float
) -> Value:
    """x * above(x**2) / below(x**2) + offset * x with x held within the clamp.

    The offset is a power of two: its product is exact, and near the clamp, where the result is near
    1 and its units are finest, it brings most of the result.
    """
    x = at_least(-clamp, at_most(clamp, x))
    s = x * x
    return fma(x, horner(s, above) / horner(s, below), x * offset)


def rsqrt(x: Value) -> Value:
    """1 / sqrt(x): 2 ops, both correctly rounded, at most 1.5 ulp."""
    return 1.0 / square_root(x)

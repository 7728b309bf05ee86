"""exp and exp2: a power of two times a polynomial of degree 6."""

from __future__ import annotations

from kaoken.passes.math.coefficients import EXP, EXP2
from kaoken.passes.math.emit import Value, at_least, at_most, bits, fma, from_bits, horner

# Added to a number below 2**22 this rounds it to an integer n, and the low 9 bits of the sum's word
# hold n + 126: shifted up by 23 they are the word of 2**(n - 1), of 0 for n = -126.
SHIFT = 1.5 * 2**23 + 126
LARGEST = SHIFT + 128

LOG2_E = 1.4426950408889634
# ln(2) in two parts; n * LN2_HIGH is exact.
LN2_HIGH = 0.693359375
LN2_LOW = -2.1219444170128554e-4
# Rounds to n = -126, and so to zero.
EXP_LOWEST = -87.3365
EXP2_LOWEST = -126.0


def exp(x: Value) -> Value:
    """e**x: 14 ops, at most 1 ulp. NaN to NaN, above 88.72284 inf, exp(0) = 1.

    Results below 2**-125.5 = 1.66e-38 are 0: all denormals, and the lowest half binade above them.
    """
    x = at_least(EXP_LOWEST, x)
    shifted = at_most(LARGEST, fma(x, LOG2_E, SHIFT))
    n = shifted - SHIFT
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    return horner(r, doubled(EXP)) * half_power_of_two(shifted)


def exp2(x: Value) -> Value:
    """2**x: 13 ops, at most 1.5 ulp; integers give powers of two. Edges as for `exp`."""
    x = at_least(EXP2_LOWEST, x)
    shifted = at_most(LARGEST, x + SHIFT)
    return horner(x - (shifted - SHIFT), doubled(EXP2)) * half_power_of_two(shifted)


def doubled(coefficients: tuple[float, ...]) -> list[float]:
    """Twice the polynomial, to go with half the power of two.

    2**128, which the largest results need, is no float32; 2**127 is.
    """
    return [2 * c for c in coefficients]


def half_power_of_two(shifted: Value) -> Value:
    """2**(n - 1) from n + SHIFT."""
    return from_bits(bits(shifted) << 23)

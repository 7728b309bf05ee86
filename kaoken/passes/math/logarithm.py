"""log: exponent and mantissa taken apart, the mantissa's logarithm by a polynomial."""

from __future__ import annotations

from kaoken.passes.math.coefficients import LOG
from kaoken.passes.math.emit import Value, bits, fma, from_bits, horner

LN2 = 0.6931471805599453
ONE = 0x3F800000
SQRT_HALF = 0x3F3504F3
SMALLEST_NORMAL = 0x00800000
MINUS_INFINITY = 0xFF800000
EXPONENT = 0xFF800000
# The word of 1.5 * 2**23: adding an integer to the word adds it to the number.
SHIFT = 1.5 * 2**23
SHIFT_WORD = 0x4B400000
TINY = 2.0**-100


def log(x: Value) -> Value:
    """The natural logarithm: 35 ops, at most 1 ulp, denormals included.

    log(0) = -inf, log(inf) = inf; NaN for negative numbers and NaN.
    """
    x = x + 0.0
    exponent, mantissa = split(x)
    f = mantissa - 1.0
    y = fma(horner(f, LOG), f * f, f)
    y = fma(exponent, LN2, y)
    y = fma(x * TINY, TINY, y)
    return y + not_positive(x)


def split(x: Value) -> tuple[Value, Value]:
    """(e, m) with x = 2**e * m and sqrt(1/2) <= m < sqrt(2), for finite x > 0: 13 ops."""
    denormal = (bits(x) - SMALLEST_NORMAL) >> 31
    scale = from_bits((denormal & (23 << 23)) + ONE)
    word = bits(x * scale)
    above = word - SQRT_HALF
    exponent = (above >> 23) - (denormal & 23)
    mantissa = from_bits(word - (above & EXPONENT))
    return from_bits(exponent + SHIFT_WORD) - SHIFT, mantissa


def not_positive(x: Value) -> Value:
    """0 for x > 0, -inf for 0, NaN for x < 0: the sign bit of x becomes the NaN's quiet bit."""
    word = bits(x)
    mask = (word - 1) >> 31
    return from_bits(mask & (word.logical_right(9) | MINUS_INFINITY))

"""sin and cos: the nearest multiple of pi/2 taken off, both polynomials, a choice of one."""

from __future__ import annotations

from kaoken.passes.math.coefficients import COS, SIN
from kaoken.passes.math.emit import Value, bits, fma, from_bits, horner

TWO_OVER_PI = 0.6366197723675814
# pi/2 in parts of 8, 8, 24 and 24 bits. Multiples of the short ones up to 2**16 are exact, so that
# a CPU without fused multiplication stays near the right angle as well.
HALF_PI = (1.5703125, 0.000484466552734375, -6.397578431460715e-07, 5.390302953474238e-15)
# Added to a number below 2**22 this rounds it to an integer, found in the low bits of the word.
SHIFT = 1.5 * 2**23


def sin(x: Value) -> Value:
    """24 ops, at most 2 ulp for |x| <= 1e5; inf gives NaN, beyond 6e6 the result means nothing."""
    return quadrant(x, 0)


def cos(x: Value) -> Value:
    """25 ops, at most 2 ulp for |x| <= 1e5; shares all but 8 of them with `sin` of the same x."""
    return quadrant(x, 1)


def quadrant(x: Value, turn: int) -> Value:
    """sin(x + turn * pi/2)."""
    shifted = fma(x, TWO_OVER_PI, SHIFT)
    n = shifted - SHIFT
    r = x
    for part in HALF_PI:
        r = fma(n, -part, r)
    z = r * r
    sine = bits(fma(r * z, horner(z, SIN), r))
    cosine = bits(fma(z, horner(z, COS), 1.0))
    quarter = bits(shifted)
    if turn:
        quarter = quarter + turn
    odd = (quarter << 31) >> 31
    chosen = sine ^ ((sine ^ cosine) & odd)
    return from_bits(chosen ^ ((quarter & 2) << 30))

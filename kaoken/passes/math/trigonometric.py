"""sin and cos: the nearest multiple of pi/2 taken off, then both polynomials and a choice of one."""

from __future__ import annotations

from kaoken.passes.math.coefficients import COS, SIN
from kaoken.passes.math.emit import Value, bits, fma, from_bits, horner

TWO_OVER_PI = 0.6366197723675814
# pi/2 in three parts of 24 bits each.
HALF_PI = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
# Added to a number below 2**22 this rounds it to an integer, found in the low bits of the word.
SHIFT = 1.5 * 2**23


def sin(x: Value) -> Value:
    """23 ops, at most 2 ulp for |x| <= 1e5; inf gives NaN, beyond 6e6 the result means nothing."""
    return quadrant(x, 0)


def cos(x: Value) -> Value:
    """24 ops, at most 2 ulp for |x| <= 1e5; shares all but 8 of them with `sin` of the same x."""
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

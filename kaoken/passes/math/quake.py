"""QuAKE's fast exponentials (arXiv 2412.00408): powers of two from the bits of a float32.

The word of 2**t holds t in fixed point: its whole part is the exponent, its fraction f the mantissa
1 + f, which is near 2**f. So shifting t into place is a power of two. This is order one. Order two
puts a parabola in place of the line, chosen so that pieces meet where the whole part changes: both
orders are continuous and never fall. Factors before the exponential cost nothing, they are part of
the constant that t is multiplied by.

The logistic function 1 / (1 + 2**t) needs no division either: the word of 1 / d is nearly a
constant minus the word of d, and one Newton step with tuned constants leaves an error of 0.17 %.
GELU of order one is x times the logistic function of a polynomial; order two leaves it exact, since
it would need more ops than erf's own quotient.

Largest relative errors, held by tests/unit/test_quake.py, and ops as in `lower-math`:

                    order one            order two
    exp, exp2       2.99 %    5 ops      0.27 %    9 ops
    logistic        3.1 %     9          0.27 %   15
    GELU, x >= -2   3.5 %    13          exact             (x >= -3: 9.1 %)
    GELU, x <= 0    0.0041   13          exact             (absolute)

inf, -inf and NaN give what the exact functions give; so do finite numbers far from 0, within the
error for large results and to 1e-38 for small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from xdsl.dialects import arith, math

from kaoken.passes.math import coefficients as c
from kaoken.passes.math.emit import Value, at_least, at_most, bits, fma, from_bits, horner
from kaoken.passes.math.exponential import (
    EXP2_LOWEST,
    LOG2_E,
    SHIFT,
    doubled,
    half_power_of_two,
)
from kaoken.passes.math.power import splat_number

INFINITE = 128.0
"""The exponent of the smallest power of two that is no float32."""
HIGHEST = 125.0
"""Up to this exponent, a power of two has a reciprocal whose word is a normal number's."""
SQRT_2 = 1.4142135623730951

# Added to t + 127 from 0 to 255 it leaves a word whose low 22 bits are t + 127 in units of 2**-14;
# shifted up by 9, they are the word of a float32 and the bits above are gone.
FIXED_POINT = 512.0
BIAS = 127.0

Power = Callable[[Value, float, float], Value]
"""2**(slope * x), never above 2**top, of which 2**128 is inf; NaN to NaN."""


def first_order(x: Value, slope: float, top: float) -> Value:
    """5 ops. Below 2**-126 the results go down to 0 in a straight line."""
    zero = FIXED_POINT + BIAS
    fixed = fma(x, slope, zero - c.QUAKE1_OFFSET)
    fixed = at_least(FIXED_POINT, at_most(zero + top, fixed))
    return fma(fixed, 0.0, from_bits(bits(fixed) << 9))


def second_order(x: Value, slope: float, top: float) -> Value:
    """9 ops. Results below 2**-125.5 are 0."""
    low, high = sorted((EXP2_LOWEST / slope, top / slope))
    x = at_least(low, at_most(high, x))
    shifted = fma(x, slope, SHIFT)
    fraction = fma(x, slope, SHIFT - shifted)
    return horner(fraction, doubled(c.QUAKE2)) * half_power_of_two(shifted)


@dataclass(frozen=True)
class Quake:
    """The functions that are made of one kind of power of two."""

    power: Power
    newton_steps: int
    """Of the reciprocal, beyond the first."""
    lowest_reciprocal: float
    """What the reciprocal gives for the largest power, to be taken off, so that it gives 0."""
    gelu_argument: tuple[float, ...] | None
    """q in Phi(x) = logistic(x * q(x**2)), Phi the normal distribution; None leaves GELU exact."""

    def exp(self, x: Value) -> Value:
        x, factor = without_factor(x)
        return self.power(x, factor * LOG2_E, INFINITE)

    def exp2(self, x: Value) -> Value:
        x, factor = without_factor(x)
        return self.power(x, factor, INFINITE)

    def divide(self, one: Value, sum_: Value) -> Value | None:
        """1 / (1 + exp(x)); None for other divisions."""
        exponential = other_than_one(sum_) if splat_number(one.ssa) == 1 else None
        if exponential is None or not isinstance(exponential.ssa.owner, math.ExpOp):
            return None
        x, sign = without_sign(Value(exponential.ssa.owner.operand, one.emitter))
        return self.logistic(x, -sign)

    def multiply_add(self, half: Value, erf: Value, same: Value) -> Value | None:
        """h * erf(z) + h with h = x / 2, which is the GELU of x = sqrt(2) * z; else None."""
        if self.gelu_argument is None or half.ssa is not same.ssa:
            return None
        if not isinstance(erf.ssa.owner, math.ErfOp):
            return None
        z, factor = without_factor(Value(erf.ssa.owner.operand, half.emitter))
        q = scaled(self.gelu_argument, factor * SQRT_2)
        x, factor = without_factor(half)
        distribution = self.logistic(z * horner(z * z, q), 1.0)
        return distribution * (x if factor == 0.5 else x * (2 * factor))

    def logistic(self, x: Value, sign: float) -> Value:
        """1 / (1 + exp(-sign * x)), from 0 to 1: the power of two and 5 ops, 7 for two steps."""
        minus_d = -1.0 - self.power(x, -sign * LOG2_E, HIGHEST)
        y = from_bits(c.RECIPROCAL_WORD - bits(minus_d))
        correction = fma(minus_d, y, c.RECIPROCAL_SUM)
        for _ in range(self.newton_steps):
            y = y * correction
            correction = fma(minus_d, y, 2.0)
        return fma(y, correction, -self.lowest_reciprocal)


ORDER_ONE = Quake(first_order, 0, c.QUAKE1_LOWEST, c.QUAKE1_GELU)
ORDER_TWO = Quake(second_order, 1, c.QUAKE2_LOWEST, None)


# ---- what the functions are applied to ----


def other_than_one(sum_: Value) -> Value | None:
    """a of 1 + a or a + 1."""
    op = sum_.ssa.owner
    if not isinstance(op, arith.AddfOp):
        return None
    for one, other in (op.operands, reversed(op.operands)):
        if splat_number(one) == 1:
            return Value(other, sum_.emitter)
    return None


def without_sign(x: Value) -> tuple[Value, float]:
    """(a, -1) of -a, else (x, 1)."""
    op = x.ssa.owner
    return (Value(op.operand, x.emitter), -1.0) if isinstance(op, arith.NegfOp) else (x, 1.0)


def without_factor(x: Value) -> tuple[Value, float]:
    """(a, k) of a * k with a constant k that is not 0, or of -a; else (x, 1)."""
    op = x.ssa.owner
    if isinstance(op, arith.MulfOp):
        for constant, other in (op.operands, reversed(op.operands)):
            number = splat_number(constant)
            if number is not None and isfinite(number) and number != 0:
                return Value(other, x.emitter), number
    return without_sign(x)


def scaled(coefficients: Sequence[float], factor: float) -> list[float]:
    """The coefficients of factor * q(factor**2 * s)."""
    return [value * factor ** (2 * i + 1) for i, value in enumerate(coefficients)]

"""powf: a few constant exponents exactly, else 2**(y * log2(x)) with the logarithm in two parts."""

from __future__ import annotations

from xdsl.dialects import arith
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, FloatAttr
from xdsl.ir import SSAValue

from kaoken.passes.math.coefficients import ATANH, EXP2
from kaoken.passes.math.emit import (
    Value,
    at_least,
    at_most,
    bits,
    fma,
    from_bits,
    horner,
    nearest_integer,
    square_root,
)
from kaoken.passes.math.exponential import (
    EXP2_LOWEST,
    LARGEST,
    SHIFT,
    doubled,
    half_power_of_two,
)
from kaoken.passes.math.logarithm import split

# 2 / ln(2) in two parts.
SCALE_HIGH = 2.885390043258667
SCALE_LOW = 3.851926067000022e-08
# |y| above 2**32 gives 0, 1 or inf for every x; held below, no product overflows.
LARGEST_EXPONENT = 2.0**32
# The word of 2**95, which stands for the logarithm of inf; its negative for that of 0.
HUGE_WORD = 0x6F000000
INFINITY = 0x7F800000
QUIET_NAN = 0x7FC00000
SIGN = 0x80000000


def power(x: Value, y: Value) -> Value:
    """x**y: 1 to 3 ops for y = 1, 2, 3, 4, 1/2, -1/2, -1, -2 or 0 in all elements, else 93.

    At most 2 ulp, 6 where |y| is above 100; results below 2**-125.5 are 0. Without fused
    multiplication it is 100. Zero, inf and negative x are as in C, except that x = NaN gives NaN
    even for y = 0, -0 counts as 0, and (-inf)**y is NaN if y is no integer.
    """
    number = splat_number(y.ssa)
    exact = None if number is None else constant_power(x, number)
    return general_power(x, y) if exact is None else exact


def splat_number(value: SSAValue) -> float | None:
    """The number that a constant holds in all its elements, if it is one."""
    op = value.owner
    if not isinstance(op, arith.ConstantOp):
        return None
    attribute = op.value
    if isinstance(attribute, FloatAttr):
        return attribute.value.data
    if isinstance(attribute, DenseIntOrFPElementsAttr) and attribute.is_splat():
        return float(next(iter(attribute.iter_values())))  # pyright: ignore[reportArgumentType]
    return None


def constant_power(x: Value, exponent: float) -> Value | None:
    """x**exponent by multiplication, division and square root: at most 2 ulp."""
    match exponent:
        case 0.0:
            return x.lift(1.0)
        case 0.5:
            return square_root(x)
        case -0.5:
            return 1.0 / square_root(x)
        case 1.0 | 2.0 | 3.0 | 4.0:
            return whole_power(x, int(exponent))
        case -1.0 | -2.0:
            return 1.0 / whole_power(x, int(-exponent))
    return None


def whole_power(x: Value, exponent: int) -> Value:
    """x**exponent for 1 <= exponent <= 4."""
    if exponent == 1:
        return x
    half = whole_power(x, exponent // 2)
    return half * half * x if exponent % 2 else half * half


def general_power(x: Value, y: Value) -> Value:
    x = x + 0.0
    y = at_least(-LARGEST_EXPONENT, at_most(LARGEST_EXPONENT, y))
    magnitude = abs(x)
    high, low = log2(magnitude)
    product = y * high
    rest = fma(y, low, fma(y, high, -product))
    result = bits(exp2_of_sum(product, rest))

    fraction = is_not_zero(y - nearest_integer(y))
    half = y * 0.5
    odd = is_not_zero(half - nearest_integer(half))
    negative = bits(x) >> 31
    not_a_number = (negative & fraction) | is_negative(INFINITY - bits(magnitude))
    result = result ^ (negative & odd & SIGN)
    return from_bits(result | (not_a_number & QUIET_NAN))


def log2(x: Value) -> tuple[Value, Value]:
    """log2(x) as a sum of two numbers, good to 2**-30 of it, for x >= 0; huge at 0 and inf.

    With s = (m - 1) / (m + 1), of which s + s_rest is a sum of two numbers as well,
    log2(m) = 2 / ln(2) * atanh(s).
    """
    exponent, m = split(x)
    f = m - 1.0
    d = m + 1.0
    s = f / d
    s_rest = fma(-s, m - (d - 1.0), fma(-s, d, f)) / d
    z = s * s
    tail = fma(s, z * horner(z, ATANH), s_rest)
    high = s * SCALE_HIGH
    low = fma(tail, SCALE_HIGH, fma(s, SCALE_LOW, fma(s, SCALE_HIGH, -high)))
    total, rest = two_sum(exponent, high)
    total, low = two_sum(total, low + rest)
    word = bits(x)
    zero = is_negative(word - 1) & (HUGE_WORD | SIGN)
    infinite = is_negative(INFINITY - 1 - word) & HUGE_WORD
    return total + from_bits(zero | infinite), low


def two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    """a + b rounded, and what rounding took away, if a is 0 or |a| >= |b|."""
    total = a + b
    return total, b - (total - a)


def exp2_of_sum(t: Value, rest: Value) -> Value:
    """2**(t + rest) for a rest that is small wherever the result is neither 0 nor inf."""
    rest = at_least(-0.01, at_most(0.01, rest))
    t = at_least(EXP2_LOWEST, t)
    shifted = at_most(LARGEST, t + SHIFT)
    r = (t - (shifted - SHIFT)) + rest
    return horner(r, doubled(EXP2)) * half_power_of_two(shifted)


def is_not_zero(x: Value) -> Value:
    """All bits set where x is not 0 (nor -0)."""
    return is_negative(0 - bits(abs(x)))


def is_negative(word: Value) -> Value:
    """All bits set where the word's sign bit is."""
    return word >> 31

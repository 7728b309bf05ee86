"""Rounding numbers that share a scale to steps of -127 .. 127, by each of the rules of `Rounding`.

The rule `exact` finds the integer nearest to 127 x / d, d the largest magnitude, in float32 alone:

  even = 2 * round(x * (127 / 2 / d))              # the answer, or next to it
  x, d = xh + xl, dh + dl                          # the upper 12 of 24 bits, and the rest
  a, b = 127 xh - even dh, 127 xl - even dl        # 127 x - even d = a + b: all of it exact
  answer = even + ((a - d / 2) + b > 0) - ((a + d / 2) + b < 0)

Products of 12 bits and 7 are exact, and so are differences of floats within a factor of two, and
the sign of a sum: the comparisons are those of the real numbers wherever they are close. At a half
neither is true, and the even one stays. No fused product is needed, which not all targets have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import f32, i32
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Rounding
from kaoken.dialect.quant import BITNET_LEAST, LEAST_SCALE, LIMIT
from kaoken.passes.lowering.kernel import Kernel

Steps = Callable[[SSAValue], SSAValue]

_UPPER = -1 << 12
"""The bits of a float32 without the lower 12 of its fraction."""


def largest_magnitude(
    kernel: Kernel, size: int, number: Callable[[SSAValue], SSAValue]
) -> SSAValue:
    """The largest magnitude of `size` numbers, of which `number` gives one."""

    def larger(h: SSAValue, acc: SSAValue) -> SSAValue:
        return kernel.insert(arith.MaximumfOp(acc, kernel.insert(math.AbsFOp(number(h)))))

    return kernel.fold("h", size, kernel.constant(0.0, f32), larger)


@dataclass(frozen=True)
class Rounder:
    """How numbers are rounded: what a step is `scale` worth, and how many `steps` a number has."""

    scale: SSAValue
    steps: Steps

    @staticmethod
    def of(kernel: Kernel, rounding: Rounding, largest: SSAValue) -> Rounder:
        """As `kaoken.quantized.round_rows` says."""
        return _RULES[rounding](kernel, largest)


def _step(kernel: Kernel, largest: SSAValue) -> Rounder:
    scale = kernel.insert(arith.MulfOp(largest, kernel.constant(1 / LIMIT, f32)))
    scale = kernel.insert(arith.MaximumfOp(scale, kernel.constant(LEAST_SCALE, f32)))
    inverse = kernel.insert(arith.DivfOp(kernel.constant(1.0, f32), scale))
    return Rounder(scale, _times(kernel, inverse))


def _bitnet(kernel: Kernel, largest: SSAValue) -> Rounder:
    bounded = kernel.insert(arith.MaximumfOp(largest, kernel.constant(BITNET_LEAST, f32)))
    one = kernel.constant(1.0, f32)
    inverse = kernel.insert(arith.DivfOp(one, bounded))
    factor = kernel.insert(arith.MulfOp(inverse, kernel.constant(LIMIT, f32)))
    scale = kernel.insert(arith.DivfOp(one, factor))
    return Rounder(scale, _times(kernel, factor))


def _times(kernel: Kernel, factor: SSAValue) -> Steps:
    """The nearest integer to a number times a factor."""

    def steps(x: SSAValue) -> SSAValue:
        return kernel.insert(math.RoundEvenOp(kernel.insert(arith.MulfOp(x, factor))))

    return steps


def _exact(kernel: Kernel, largest: SSAValue) -> Rounder:
    def number(value: float) -> SSAValue:
        return kernel.constant(value, f32)

    def mul(a: SSAValue, b: SSAValue) -> SSAValue:
        return kernel.insert(arith.MulfOp(a, b))

    def add(a: SSAValue, b: SSAValue) -> SSAValue:
        return kernel.insert(arith.AddfOp(a, b))

    def one_if(a: SSAValue, predicate: str) -> SSAValue:
        condition = kernel.insert(arith.CmpfOp(a, number(0.0), predicate))
        return kernel.insert(arith.SelectOp(condition, number(1.0), number(0.0)))

    limit = number(LIMIT)
    d = kernel.insert(arith.MaximumfOp(largest, number(LEAST_SCALE)))
    scale = kernel.insert(arith.DivfOp(d, limit))
    factor = kernel.insert(arith.DivfOp(number(LIMIT / 2), d))
    half, minus_half = mul(d, number(0.5)), mul(d, number(-0.5))
    d_parts = _split(kernel, d)

    def steps(x: SSAValue) -> SSAValue:
        pair = kernel.insert(math.RoundEvenOp(mul(x, factor)))
        minus_even = mul(pair, number(-2.0))
        a, b = (
            add(mul(part, limit), mul(minus_even, d_part))
            for part, d_part in zip(_split(kernel, x), d_parts, strict=True)
        )
        above = one_if(add(add(a, minus_half), b), "ogt")
        below = one_if(add(add(a, half), b), "olt")
        correction = kernel.insert(arith.SubfOp(above, below))
        return kernel.insert(arith.SubfOp(correction, minus_even))

    return Rounder(scale, steps)


def _split(kernel: Kernel, x: SSAValue) -> tuple[SSAValue, SSAValue]:
    """A float as the sum of two with 12 bits each."""
    bits = kernel.insert(arith.BitcastOp(x, i32))
    high = kernel.insert(arith.AndIOp(bits, kernel.constant(_UPPER, i32)))
    upper = kernel.insert(arith.BitcastOp(high, f32))
    return upper, kernel.insert(arith.SubfOp(x, upper))


_RULES: dict[Rounding, Callable[[Kernel, SSAValue], Rounder]] = {
    Rounding.STEP: _step,
    Rounding.BITNET: _bitnet,
    Rounding.EXACT: _exact,
}

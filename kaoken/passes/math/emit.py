"""Writes arith and math ops as Python expressions on f32 values and the i32 values of their bits.

Everything works on scalars and on vectors of any rank alike. That rules out some ops: in xDSL 0.74
arith.cmpf, arith.select, arith.sitofp and arith.fptosi take scalars only. Conditions are therefore
masks, made by shifting a sign bit over the word, and conversions add a large power of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    Float32Type,
    FloatAttr,
    IntegerAttr,
    VectorType,
    f32,
    i32,
)
from xdsl.ir import Attribute, Operation, SSAValue

Known = dict[tuple[object, ...], SSAValue]


@dataclass
class Emitter:
    """Inserts ops before `anchor`. An op that `known` holds from earlier in the block is reused."""

    anchor: Operation
    known: Known = field(default_factory=dict)

    def insert(self, key: tuple[object, ...], build: type[Operation], *arguments: object) -> Value:
        full_key = (build, *key)
        if full_key not in self.known:
            op = build(*arguments)
            block = self.anchor.parent
            assert block is not None
            block.insert_op_before(op, self.anchor)
            self.known[full_key] = op.results[0]
        return Value(self.known[full_key], self)

    def constant(self, number: float, like: Attribute) -> Value:
        """`number` in every element of the type `like`."""
        integer = not is_float(like)
        if integer:
            number = (int(number) + 2**31) % 2**32 - 2**31
        # The sign tells -0.0 from 0.0, which are equal as keys.
        key = (like, number, str(number))
        if isinstance(like, VectorType):
            splat = DenseIntOrFPElementsAttr.from_list(like, [number])
            return self.insert(key, arith.ConstantOp, splat)
        attribute = IntegerAttr(int(number), i32) if integer else FloatAttr(number, f32)
        return self.insert(key, arith.ConstantOp, attribute)


@dataclass(frozen=True)
class Value:
    """An SSA value with operators. On i32, `>>` copies the sign; `logical_right` does not."""

    ssa: SSAValue
    emitter: Emitter

    @property
    def is_float(self) -> bool:
        return is_float(self.ssa.type)

    def apply(self, build: type[Operation], *others: Value | float) -> Value:
        """The op `build` on this value and others; numbers become constants of this type."""
        values = [self.ssa, *(self.lift(v).ssa for v in others)]
        return self.emitter.insert(tuple(values), build, *values)

    def lift(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return other
        return self.emitter.constant(other, self.ssa.type)

    def __add__(self, other: Value | float) -> Value:
        return self.apply(arith.AddfOp if self.is_float else arith.AddiOp, other)

    def __sub__(self, other: Value | float) -> Value:
        return self.apply(arith.SubfOp if self.is_float else arith.SubiOp, other)

    def __rsub__(self, other: float) -> Value:
        return self.lift(other) - self

    def __mul__(self, other: Value | float) -> Value:
        return self.apply(arith.MulfOp, other)

    def __truediv__(self, other: Value | float) -> Value:
        return self.apply(arith.DivfOp, other)

    def __rtruediv__(self, other: float) -> Value:
        return self.lift(other) / self

    def __neg__(self) -> Value:
        return self.apply(arith.NegfOp)

    def __abs__(self) -> Value:
        return self.apply(math.AbsFOp)

    def __and__(self, other: Value | int) -> Value:
        return self.apply(arith.AndIOp, other)

    def __or__(self, other: Value | int) -> Value:
        return self.apply(arith.OrIOp, other)

    def __xor__(self, other: Value | int) -> Value:
        return self.apply(arith.XOrIOp, other)

    def __lshift__(self, places: int) -> Value:
        return self.apply(arith.ShLIOp, places)

    def __rshift__(self, places: int) -> Value:
        return self.apply(arith.ShRSIOp, places)

    def logical_right(self, places: int) -> Value:
        return self.apply(arith.ShRUIOp, places)


def is_float(type_: Attribute) -> bool:
    return isinstance(element_of(type_), Float32Type)


def element_of(type_: Attribute) -> Attribute:
    return type_.element_type if isinstance(type_, VectorType) else type_


def fma(a: Value, b: Value | float, c: Value | float) -> Value:
    """a * b + c, rounded once."""
    return a.apply(math.FmaOp, b, c)


def horner(x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial with these coefficients, constant term first: one fma each but the last."""
    *rest, last = coefficients
    value: Value | float = last
    for coefficient in reversed(rest):
        value = fma(x.lift(value), x, coefficient)
    assert isinstance(value, Value)
    return value


def at_least(low: float, x: Value) -> Value:
    """max(low, x), NaN if x is NaN.

    The constant comes first: then `a > b ? a : b`, which is what x86 does, keeps a NaN as well.
    """
    return x.lift(low).apply(arith.MaximumfOp, x)


def at_most(high: float, x: Value) -> Value:
    """min(high, x), NaN if x is NaN; see `at_least`."""
    return x.lift(high).apply(arith.MinimumfOp, x)


def square_root(x: Value) -> Value:
    return x.apply(math.SqrtOp)


def nearest_integer(x: Value) -> Value:
    return x.apply(math.RoundEvenOp)


def bits(x: Value) -> Value:
    """The i32 word of an f32."""
    return _reinterpret(x, i32)


def from_bits(word: Value) -> Value:
    """The f32 with this i32 word."""
    return _reinterpret(word, f32)


def _reinterpret(x: Value, element: Attribute) -> Value:
    type_ = x.ssa.type
    target = VectorType(element, type_.shape) if isinstance(type_, VectorType) else element
    return x.emitter.insert((x.ssa, target), arith.BitcastOp, x.ssa, target)

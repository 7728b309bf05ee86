"""Rules for casts and elementwise functions.

    cast(cast(x)) -> cast(x) where the middle type holds every value of the first
    x + 0, x * 1, x and true, x or false, select(true, x, y), not(not(x)) -> x
    f(full, full) -> full                      f(broadcast(x), y) -> f(x, y)
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    AnyFloat,
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IntegerType,
    Signedness,
    TensorType,
)
from xdsl.ir import Attribute, SSAValue

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Function, ShapeAttr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.canonicalization.movement import leading_ones_dropped
from kaoken.dialect.canonicalization.rules import (
    Number,
    Replacement,
    expand,
    full_like,
    like,
    number_attr,
    owner,
    splat,
)
from kaoken.dialect.nn import broadcast_shapes
from kaoken.dialect.tensor import CastOp, ElementwiseOp, FullOp

_INTEGER_BITS: dict[type[Attribute], int] = {
    BFloat16Type: 8,
    Float16Type: 11,
    Float32Type: 24,
    Float64Type: 53,
}
"""Integers of so many bits are exact in a float type."""

_NEUTRAL: dict[Function, Number] = {
    Function.ADD: 0,
    Function.SUB: 0,
    Function.MUL: 1,
    Function.DIV: 1,
    Function.POW: 1,
    Function.AND: True,
    Function.OR: False,
    Function.XOR: False,
}
"""The right operand that changes nothing; for the commutative ones the left one as well."""
_COMMUTATIVE = {Function.ADD, Function.MUL, Function.AND, Function.OR, Function.XOR}
_ABSORBING = {Function.AND: False, Function.OR: True}
_IDEMPOTENT = {Function.AND, Function.OR, Function.MAXIMUM, Function.MINIMUM}
_INVOLUTIONS = {Function.NEG, Function.NOT}


def drop_cast(op: CastOp) -> Replacement:
    return op.input if op.input.type == op.result.type else None


def merge_casts(op: CastOp) -> Replacement:
    if (inner := owner(op.input, CastOp)) is None:
        return None
    source, middle = (tensor_type(v).element_type for v in (inner.input, inner.result))
    return [like(op, CastOp, [inner.input])] if _holds(middle, source) else None


def _holds(wide: Attribute, narrow: Attribute) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    if wide == narrow:
        return True
    if isinstance(narrow, IntegerType):
        if narrow.signedness.data is Signedness.UNSIGNED:
            return False
        bits = narrow.width.data
        if isinstance(wide, IntegerType):
            return 1 < bits <= wide.width.data or (bits == 1 < wide.width.data)
        return bits <= _INTEGER_BITS.get(type(wide), 0)
    if not isinstance(wide, AnyFloat):
        return False
    return isinstance(wide, Float64Type) or (
        isinstance(wide, Float32Type) and isinstance(narrow, BFloat16Type | Float16Type)
    )


def fold_cast_of_full(op: CastOp) -> Replacement:
    if (value := splat(op.input)) is None:
        return None
    return _evaluated(op, [op.input], [value])


def drop_neutral(op: ElementwiseOp) -> Replacement:
    """x + 0, x * 1, x and true, ..."""
    function = op.function.data
    if function not in _NEUTRAL:
        return None
    a, b = op.inputs
    if _is(splat(b), _NEUTRAL[function], b):
        return expand(op, a)
    if function in _COMMUTATIVE and _is(splat(a), _NEUTRAL[function], a):
        return expand(op, b)
    return None


def _is(value: Number | None, wanted: Number, tensor: SSAValue) -> bool:
    """Whether a splat is a number; `true` on wider integers is all ones."""
    if value is None:
        return False
    if wanted is True and tensor_type(tensor).element_type != IntegerType(1):
        return value == -1
    return value == wanted


def absorb(op: ElementwiseOp) -> Replacement:
    """x and false, x or true, of booleans."""
    wanted = _ABSORBING.get(op.function.data)
    if wanted is None or tensor_type(op.result).element_type != IntegerType(1):
        return None
    return [full_like(op, wanted)] if wanted in [splat(v) for v in op.inputs] else None


def drop_select(op: ElementwiseOp) -> Replacement:
    """A select whose condition is known, or whose choices are one value."""
    if op.function.data is not Function.SELECT:
        return None
    condition, yes, no = op.inputs
    if yes is no:
        return expand(op, yes)
    known = splat(condition)
    return None if known is None else expand(op, yes if known else no)


def drop_repetition(op: ElementwiseOp) -> Replacement:
    """x and x, maximum(x, x), not(not(x)), -(-x)."""
    function = op.function.data
    if function in _IDEMPOTENT and op.inputs[0] is op.inputs[1]:
        return op.inputs[0]
    if function not in _INVOLUTIONS:
        return None
    inner = owner(op.inputs[0], ElementwiseOp)
    return inner.inputs[0] if inner is not None and inner.function == op.function else None


def fold_fulls(op: ElementwiseOp) -> Replacement:
    values = [splat(v) for v in op.inputs]
    known = [v for v in values if v is not None]
    return _evaluated(op, op.inputs, known) if len(known) == len(values) else None


def _evaluated(
    op: CastOp | ElementwiseOp, operands: Sequence[SSAValue], values: Sequence[Number]
) -> Replacement:
    """The full that `op` gives where each operand holds one number."""
    import numpy as np

    from kaoken.analysis.evaluate import evaluate
    from kaoken.dtypes import numpy_dtype

    arrays = [
        np.asarray(value, numpy_dtype(tensor_type(operand).element_type))
        for operand, value in zip(operands, values, strict=True)
    ]
    element_type = tensor_type(op.result).element_type
    scalar = type(op).create(
        operands=op.operands,
        properties=op.properties,
        result_types=[TensorType(element_type, [])],
    )
    result = evaluate(scalar, arrays)
    scalar.drop_all_references()
    is_float = isinstance(element_type, AnyFloat)
    return [full_like(op, float(result) if is_float else result.item())]


def shrink_operands(op: ElementwiseOp) -> Replacement:
    """Operands without the broadcasts that the op does itself, and fulls without a shape."""
    inputs = list(op.inputs)
    changed: list[FullOp] = []
    for i, value in enumerate(inputs):
        smaller = _smaller(value)
        if smaller is None:
            continue
        rest = [shape_of(v) for j, v in enumerate(inputs) if j != i]
        if broadcast_shapes(*rest, shape_of(smaller)) != shape_of(op.result):
            continue
        inputs[i] = smaller
        if isinstance(full := smaller.owner, FullOp) and full.parent is None:
            changed.append(full)
    if all(a is b for a, b in zip(inputs, op.inputs, strict=True)):
        return None
    return [*changed, like(op, ElementwiseOp, [inputs], {"function": op.function})]


def _smaller(value: SSAValue) -> SSAValue | None:
    if isinstance(value.owner, FullOp):
        if not shape_of(value):
            return None
        scalar = number_attr(splat(value) or 0, tensor_type(value).element_type)
        return FullOp.make([], {"value": scalar, "shape": ShapeAttr(())}).result
    source = leading_ones_dropped(value)
    return None if source is value else source

"""Scales that weights can take over.

    %q = kaoken.linear %x, %w bias %b
    %y = kaoken.attention %q, %k, %v {scale = 0.125}
->
    %q = kaoken.linear %x, (%w * 0.125) bias (%b * 0.125)
    %y = kaoken.attention %q, %k, %v {scale = 1.0}

The products are ordinary ops on weights, which are then folded.
"""

from __future__ import annotations

from xdsl.dialects.builtin import bf16
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.analysis.constants import is_constant
from kaoken.analysis.tied import is_tied
from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import (
    Activation,
    Function,
    FunctionAttr,
    Norm,
    ShapeAttr,
    float_attr,
    int_attr,
)
from kaoken.dialect.base import tensor_type
from kaoken.dialect.canonicalization.layers import has_no_epilogue
from kaoken.dialect.canonicalization.movement import leading_ones_dropped
from kaoken.dialect.canonicalization.rules import (
    Replacement,
    linear_like,
    number_attr,
    reshape_to,
    sole_owner,
)
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp, LinearOp
from kaoken.dialect.tensor import ConcatOp, ElementwiseOp, FullOp, SliceOp

_ONE = Dim.of(1)


def fold_factor_after_linear(op: ElementwiseOp) -> Replacement:
    """linear(x) * c and linear(x) / c, c a number or one number for each output."""
    function = op.function.data
    if function not in (Function.MUL, Function.DIV):
        return None
    pairs = [(op.inputs[0], op.inputs[1]), (op.inputs[1], op.inputs[0])]
    for value, other in pairs[: 1 if function is Function.DIV else 2]:
        linear = sole_owner(value, LinearOp)
        factor = leading_ones_dropped(other)
        if linear is None or not _takes_factors(linear) or not is_constant(factor):
            continue
        if tensor_type(factor).element_type != tensor_type(linear.weight).element_type:
            continue
        if shape_of(factor) in ((), (_ONE,), (Dim.of(linear.n),)):
            return _scaled(linear, factor, function)
    return None


def fold_attention_scale(op: AttentionOp) -> None:
    """Multiply what the query's linear gives by the scale, where only this op reads the query."""
    scale = op.scale.value.data
    if scale == 1.0 or (columns := scalable_columns(op.query)) is None:
        return
    linear, start, stop = columns
    factor = _full(linear, scale, stop - start)
    Rewriter.insert_op(factor, InsertPoint.before(linear))
    scale_columns(columns, factor.result)
    op.scale = float_attr(1.0)


Columns = tuple[LinearOp, int, int]
"""A linear and a range of its outputs."""


def scalable_columns(value: SSAValue, through: Activation = Activation.NONE) -> Columns | None:
    """The outputs of a linear that a value used once is, where they can be scaled for it alone.

    The linear may end in the activation `through`.
    """
    if (found := _columns(value)) is None:
        return None
    linear, start, stop = found
    plain = has_no_epilogue(linear) or (
        through is linear.activation.data
        and linear.residual is None
        and linear.norm.data is Norm.NONE
    )
    if _is_settled(linear):
        return None
    if not plain or not _has_constant_weights(linear):
        return None
    return found if _read_once(linear, start, stop) else None


def scale_columns(columns: Columns, factor: SSAValue) -> None:
    """Multiply the outputs by a constant factor each, [stop - start], known before the linear."""
    linear, start, stop = columns
    below, above = (_full(linear, 1.0, n) if n else None for n in (start, linear.n - stop))
    parts = [part for part in (below, factor, above) if part is not None]
    factors = ConcatOp.make([parts], {"dim": int_attr(0)})
    ops = _scaled(linear, factors.result, Function.MUL)
    ones = [op for op in (below, above) if op is not None]
    Rewriter.replace_op(linear, [*ones, factors, *ops])


def _takes_factors(op: LinearOp) -> bool:
    """Whether weight and bias may be scaled; a tied weight would then be stored a second time."""
    if _is_settled(op) or is_tied(op):
        return False
    return has_no_epilogue(op) and _has_constant_weights(op)


def _is_settled(op: LinearOp) -> bool:
    """Whether the weight is packed, or rounded already: a factor would round it a second time."""
    is_narrow = tensor_type(op.weight).element_type == bf16
    return op.is_packed or op.weight_scale is not None or is_narrow


def _has_constant_weights(op: LinearOp) -> bool:
    return is_constant(op.weight) and (op.bias is None or is_constant(op.bias))


def _scaled(linear: LinearOp, factor: SSAValue, function: Function) -> list[Operation]:
    """The linear with each output multiplied or divided, and the ops that change its weights."""
    ops: list[Operation] = []

    def apply(value: SSAValue, by: SSAValue) -> SSAValue:
        op = ElementwiseOp.make([[value, by]], {"function": FunctionAttr(function)})
        ops.append(op)
        return op.result

    bias = None if linear.bias is None else apply(linear.bias, factor)
    if shape_of(factor) == (Dim.of(linear.n),):
        column = reshape_to(factor, (Dim.of(linear.n), _ONE))
        ops.append(column)
        factor = column.result
    weight = apply(linear.weight, factor)
    ops.append(linear_like(linear, linear.result.type, {"weight": weight, "bias": bias}))
    return ops


def _full(linear: LinearOp, value: float, count: int) -> FullOp:
    number = number_attr(value, tensor_type(linear.weight).element_type)
    return FullOp.make([], {"value": number, "shape": ShapeAttr((Dim.of(count),))})


def _columns(value: SSAValue) -> Columns | None:
    """The linear and the range of its outputs that a value used once is."""
    start, size = 0, tensor_type(value).get_shape()[-1]
    while (part := sole_owner(value, SliceOp)) is not None:
        if (bounds := _column_bounds(part)) is None:
            return None
        start += bounds[0]
        value = part.input
    linear = value.owner
    return (linear, start, start + size) if isinstance(linear, LinearOp) else None


def _column_bounds(op: SliceOp) -> tuple[int, int] | None:
    """The range of a slice of the last dimension."""
    last = len(tensor_type(op.input).get_shape()) - 1
    start, stop = (d.constant for d in op.range.data)
    if op.dim.value.data != last or op.step.value.data != 1 or start is None or stop is None:
        return None
    return start, stop


def _read_once(linear: LinearOp, start: int, stop: int) -> bool:
    """Whether one op alone reads the outputs from `start` to `stop`."""
    if linear.result.has_one_use():
        return True
    readers = 0
    for use in linear.result.uses:
        if not isinstance(use.operation, SliceOp):
            return False
        if (bounds := _column_bounds(use.operation)) is None:
            return False
        readers += bounds[0] < stop and start < bounds[1]
    return readers == 1

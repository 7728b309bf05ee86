"""Rules around linear layers, matrix products and attention.

    linear(x, w) + b -> linear(x, w, b)                     b a weight of [N]
    linear(reshape(x)), gelu(reshape(x)) -> reshape(...)    leading sizes only
    matmul(x, w) -> linear(x, transpose(w))                 w a weight of [K, N]
    attention(mask broadcast(m)) -> attention(mask m)
"""

from __future__ import annotations

from xdsl.dialects.builtin import BoolAttr, i1
from xdsl.ir import SSAValue

from kaoken.analysis.constants import is_constant
from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Activation, Function, FunctionAttr, Norm, ShapeAttr
from kaoken.dialect.base import KaokenOp, shaped, tensor_type
from kaoken.dialect.canonicalization.movement import leading_ones_dropped
from kaoken.dialect.canonicalization.rules import (
    LINEAR_OPERANDS,
    Replacement,
    int_array,
    like,
    linear_like,
    owner,
    same_shape,
    sole_owner,
    splat,
)
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import (
    ActivationOp,
    AttentionOp,
    LayerNormOp,
    LinearOp,
    MatmulOp,
    RmsNormOp,
)
from kaoken.dialect.tensor import ElementwiseOp, ReshapeOp, TransposeOp

_NO_EPILOGUE = [None] * (len(LINEAR_OPERANDS) - 2)


def has_no_epilogue(op: LinearOp) -> bool:
    """Whether an op gives `x @ w.T + b` and nothing else is applied to it."""
    return (
        op.activation.data is Activation.NONE and op.residual is None and op.norm.data is Norm.NONE
    )


def absorb_bias(op: ElementwiseOp) -> Replacement:
    """linear + a weight of [N], where nothing else reads the linear."""
    if op.function.data is not Function.ADD:
        return None
    for value, addend in ((op.inputs[0], op.inputs[1]), (op.inputs[1], op.inputs[0])):
        linear = sole_owner(value, LinearOp)
        bias = leading_ones_dropped(addend)
        if linear is None or not has_no_epilogue(linear) or not is_constant(bias):
            continue
        if shape_of(bias) != (Dim.of(linear.n),):
            continue
        if linear.bias is None:
            return [linear_like(linear, op.result.type, {"bias": bias})]
        total = _add(linear.bias, bias)
        return [total, linear_like(linear, op.result.type, {"bias": total})]
    return None


def _add(a: SSAValue, b: SSAValue) -> ElementwiseOp:
    return ElementwiseOp.make([[a, b]], {"function": FunctionAttr(Function.ADD)})


def sink_reshape_below_linear(op: LinearOp) -> Replacement:
    """linear(reshape(x)) -> reshape(linear(x)) where the reshape keeps the last dimension."""
    reshape = _row_reshape(op.input)
    if reshape is None or op.residual is not None:
        return None
    type_ = shaped((*shape_of(reshape.input)[:-1], Dim.of(op.n)), op.infer_element_type())
    linear = linear_like(op, type_, {"input": reshape.input})
    return [linear, _reshape_like(op, linear)]


def sink_reshape_below_row_op(op: ActivationOp | LayerNormOp | RmsNormOp) -> Replacement:
    """gelu(reshape(x)) -> reshape(gelu(x)), and so for all ops that work on rows."""
    if (reshape := _row_reshape(op.input)) is None:
        return None
    type_ = shaped(shape_of(reshape.input), op.infer_element_type())
    inner = type(op).create(
        operands=[reshape.input, *op.operands[1:]],
        properties=op.properties,
        attributes=op.attributes,
        result_types=[type_],
    )
    return [inner, _reshape_like(op, inner)]


def sink_reshapes_below_elementwise(op: ElementwiseOp) -> Replacement:
    """f(reshape(x), reshape(y)) -> reshape(f(x, y)), x and y of one shape.

    Other operands are numbers, or vectors of the last dimension where the reshapes keep that.
    """
    found = [r for v in op.inputs if (r := sole_owner(v, ReshapeOp)) is not None]
    if not found or any(not same_shape(r.result, op.result) for r in found):
        return None
    shape = shape_of(found[0].input)
    if any(shape_of(r.input) != shape for r in found):
        return None
    kept = 1 if shape[-1:] == shape_of(op.result)[-1:] else 0
    others = [v for v in op.inputs if v not in {r.result for r in found}]
    if any(len(shape_of(v)) > kept for v in others):
        return None
    sources: dict[SSAValue, SSAValue] = {r.result: r.input for r in found}
    inner = ElementwiseOp.create(
        operands=[sources.get(v, v) for v in op.inputs],
        properties=op.properties,
        attributes=op.attributes,
        result_types=[shaped(shape, op.infer_element_type())],
    )
    return [inner, _reshape_like(op, inner)]


def _row_reshape(value: SSAValue) -> ReshapeOp | None:
    """The reshape of leading dimensions that makes a value which is used once."""
    reshape = sole_owner(value, ReshapeOp)
    if reshape is None:
        return None
    before, after = shape_of(reshape.input), shape_of(value)
    return reshape if before and after and before[-1] == after[-1] else None


def _reshape_like(op: KaokenOp, value: KaokenOp) -> ReshapeOp:
    return like(op, ReshapeOp, [value], {"shape": ShapeAttr(shape_of(op.result))})


def matmul_by_weight(op: MatmulOp) -> Replacement:
    """A product with a constant matrix is a linear layer."""
    if len(shape_of(op.rhs)) != 2 or not is_constant(op.rhs):
        return None
    if op.transpose_rhs.value.data:
        return [like(op, LinearOp, [op.lhs, op.rhs, *_NO_EPILOGUE])]
    weight = TransposeOp.make([op.rhs], {"permutation": int_array([1, 0])})
    return [weight, like(op, LinearOp, [op.lhs, weight, *_NO_EPILOGUE])]


def absorb_transpose(op: MatmulOp) -> Replacement:
    """A transpose of the last two dimensions of rhs turns `transpose_rhs` over."""
    if (transpose := owner(op.rhs, TransposeOp)) is None:
        return None
    order = list(transpose.permutation.get_values())
    rank = len(order)
    if order != [*range(rank - 2), rank - 1, rank - 2]:
        return None
    flag = BoolAttr.from_bool(not op.transpose_rhs.value.data)
    properties = {"transpose_rhs": flag, "schedule": op.schedule}
    return [like(op, MatmulOp, [op.lhs, transpose.input], properties)]


def shrink_mask(op: AttentionOp) -> Replacement:
    """Attention broadcasts its mask itself; a mask that hides nothing is none."""
    if op.mask is None:
        return None
    mask = None if _hides_nothing(op.mask) else leading_ones_dropped(op.mask)
    if mask is op.mask:
        return None
    operands = [op.query, op.key, op.value, mask, op.position_bias]
    return [like(op, AttentionOp, operands, dict(op.properties))]


def _hides_nothing(mask: SSAValue) -> bool:
    value = splat(mask)
    return value is not None and value == (tensor_type(mask).element_type == i1)

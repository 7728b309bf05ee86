"""What the canonicalization rules are written with.

A rule is a function from an op to what replaces it: a value that is there already, new ops of
which the last gives the result, or None where the rule does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from xdsl.dialects import arith
from xdsl.dialects.builtin import (
    AnyFloat,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    i1,
    i64,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Shape, ShapeAttr
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.nn import LinearOp
from kaoken.dialect.tensor import BroadcastOp, FullOp, ReshapeOp

Replacement = SSAValue | Sequence[Operation] | None
Number = bool | int | float
OpT = TypeVar("OpT", bound=KaokenOp)
LINEAR_OPERANDS = (
    "input",
    "weight",
    "bias",
    "residual",
    "norm_weight",
    "norm_bias",
    "input_scale",
    "weight_scale",
    "weight_min",
    "weight_supers",
    "nonzeros",
    "tables",
)
_LINEAR_PROPERTIES = (
    "activation",
    "norm",
    "eps",
    "out_features",
    "input_zero_point",
    "weight_bits",
    "format",
    "density",
    "schedule",
)
_SMALL_BYTES = 64


@dataclass(frozen=True)
class Rule(RewritePattern):
    """A rewrite pattern made of a function on ops of one kind."""

    function: Callable[[Any], Replacement]
    kind: type[Operation] = KaokenOp

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        result = self.function(op) if isinstance(op, self.kind) else None
        if isinstance(result, SSAValue):
            if result.type == op.results[0].type:
                rewriter.replace(op, (), (result,))
        elif result is not None:
            rewriter.replace(op, result)


def like(
    op: Operation,
    kind: type[OpT],
    operands: Sequence[SSAValue | Operation | Sequence[SSAValue | Operation] | None],
    properties: Mapping[str, Attribute | None] | None = None,
) -> OpT:
    """An op of some kind whose result has the type of `op`'s."""
    present = {k: v for k, v in (properties or {}).items() if v is not None}
    return kind.build(
        operands=kind.all_operands(operands),
        properties=present,
        result_types=[op.results[0].type],
    )


def owner(value: SSAValue, kind: type[OpT]) -> OpT | None:
    """The op that makes a value, where it is of a kind."""
    return value.owner if isinstance(value.owner, kind) else None


def sole_owner(value: SSAValue, kind: type[OpT]) -> OpT | None:
    """The op that makes a value, where it is of a kind and nothing else uses the value."""
    return owner(value, kind) if value.has_one_use() else None


def int_array(values: Sequence[int]) -> DenseArrayBase:
    return DenseArrayBase.from_list(i64, list(values))


def full_like(op: Operation, value: Number) -> FullOp:
    """A full of `op`'s shape and type."""
    type_ = tensor_type(op.results[0])
    shape = ShapeAttr(shape_of(op.results[0]))
    return like(op, FullOp, [], {"value": number_attr(value, type_.element_type), "shape": shape})


def number_attr(value: Number, element_type: Attribute) -> FloatAttr | IntegerAttr:
    """A number as the attribute that `kaoken.full` holds."""
    if element_type == i1:
        return IntegerAttr.from_bool(bool(value))
    if isinstance(element_type, AnyFloat):
        return FloatAttr(float(value), element_type)
    assert isinstance(element_type, IntegerType)
    return IntegerAttr(int(value), element_type)


def splat(value: SSAValue) -> Number | None:
    """The one number of a tensor that holds nothing else, where the IR says so."""
    if isinstance(value.owner, FullOp):
        return _number(value.owner.value)
    if not isinstance(value.owner, arith.ConstantOp):
        return None
    dense = value.owner.value
    if not isinstance(dense, DenseIntOrFPElementsAttr) or len(dense.data.data) > _SMALL_BYTES:
        return None
    numbers = set(dense.get_values())
    element_type = dense.type.element_type
    return _typed(numbers.pop(), element_type) if len(numbers) == 1 else None


def _number(attr: FloatAttr | IntegerAttr) -> Number:
    return _typed(attr.value.data, attr.type)


def _typed(value: Any, element_type: Attribute) -> Number:
    return bool(value) if element_type == i1 else value


def same_shape(a: SSAValue, b: SSAValue) -> bool:
    return shape_of(a) == shape_of(b)


def expand(op: Operation, value: SSAValue) -> Replacement:
    """`value` in the place of `op`'s result, broadcast where that is larger."""
    if same_shape(value, op.results[0]):
        return value
    return [like(op, BroadcastOp, [value], {"shape": ShapeAttr(shape_of(op.results[0]))})]


def reshaped(op: Operation, value: SSAValue) -> Replacement:
    """`value` in the place of `op`'s result, which has the same elements in the same order."""
    if same_shape(value, op.results[0]):
        return value
    return [like(op, ReshapeOp, [value], {"shape": ShapeAttr(shape_of(op.results[0]))})]


def reshape_to(value: SSAValue | Operation, shape: Shape) -> ReshapeOp:
    return ReshapeOp.make([value], {"shape": ShapeAttr(shape)})


def linear_like(
    linear: LinearOp,
    type_: Attribute,
    operands: Mapping[str, SSAValue | Operation | None] | None = None,
    properties: Mapping[str, Attribute | None] | None = None,
) -> LinearOp:
    """A copy of `linear` of another type, with some operands and properties changed."""
    changed = operands or {}
    values = [changed.get(name, getattr(linear, name)) for name in LINEAR_OPERANDS]
    kept = {name: getattr(linear, name) for name in _LINEAR_PROPERTIES}
    present = {k: v for k, v in {**kept, **(properties or {})}.items() if v is not None}
    copy = LinearOp.build(
        operands=values,
        properties=present,
        attributes=linear.attributes.copy(),
        result_types=[type_],
    )
    copy.result.name_hint = linear.result.name_hint
    return copy

"""Folding: what depends on weights alone becomes a weight.

    %w = kaoken.concat %q, %k {dim = 0}          # both weights
->
    %w = kaoken.weight "attention.q_k.weight"
"""

from __future__ import annotations

from math import prod

from xdsl.dialects import arith
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Block, Operation, SSAValue, Use
from xdsl.rewriter import Rewriter

from kaoken.analysis.constants import is_constant
from kaoken.dialect.attributes import Function
from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.canonicalization.rules import full_like, splat
from kaoken.dialect.nn import EmbeddingOp, LayerNormOp, LinearOp, RmsNormOp, WeightOp
from kaoken.dialect.quant import DequantizeOp
from kaoken.dialect.tensor import (
    BroadcastOp,
    CastOp,
    ConcatOp,
    ElementwiseOp,
    FullOp,
    IotaOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)
from kaoken.passes.baking.workspace import Workspace, joined_key
from kaoken.passes.literal import is_literal

LARGE_BROADCAST = 1 << 14
"""A broadcast of more elements than this stays in the program instead of the weights file."""

_ROLES: dict[type[Operation], str] = {
    ConcatOp: "",
    TransposeOp: "transposed",
    ReshapeOp: "reshaped",
    SliceOp: "part",
    BroadcastOp: "repeated",
    EmbeddingOp: "rows",
    DequantizeOp: "f32",
}
_FUNCTION_ROLES = {
    Function.MUL: "scaled",
    Function.DIV: "scaled",
    Function.ADD: "sum",
}


def fold_constants(block: Block, work: Workspace) -> None:
    """Replace constant values that the rest of the program reads by weights."""
    kept: set[Operation] = set()
    folded: list[SSAValue] = []
    for op in reversed(list(block.ops)):
        value = op.results[0] if len(op.results) == 1 else None
        if value is None or not isinstance(value.type, TensorType) or not is_constant(value):
            kept.add(op)
        elif not (readers := [use for use in value.uses if use.operation in kept]):
            continue
        elif isinstance(op, WeightOp) or _stays(op, readers):
            kept.add(op)
        else:
            folded.append(value)
    for value in folded:
        _fold(value, work)


def _stays(op: Operation, readers: list[Use]) -> bool:
    """Whether a constant is better computed, or written into the code, than stored."""
    if isinstance(op, FullOp | IotaOp):
        return not any(_is_parameter(use) for use in readers)
    if isinstance(op, arith.ConstantOp):
        return all(is_literal(use.operation) and use.index in (1, 2) for use in readers)
    if isinstance(op, BroadcastOp):
        sizes = [prod(tensor_type(v).get_shape()) for v in (op.input, op.result)]
        return sizes[1] > max(sizes[0], LARGE_BROADCAST)
    return False


def _is_parameter(use: Use) -> bool:
    """Whether a layer reads a weight, bias or table here, which code expects in memory."""
    if isinstance(use.operation, EmbeddingOp):
        return use.index == 0
    return isinstance(use.operation, LinearOp | LayerNormOp | RmsNormOp) and use.index > 0


def _fold(value: SSAValue, work: Workspace) -> None:
    op = value.owner
    assert isinstance(op, Operation)
    if (number := splat(value)) is not None and not any(map(_is_parameter, value.uses)):
        Rewriter.replace_op(op, full_like(op, number))
        return
    weight = WeightOp(work.add(_key(value), work.value(value)), value.type)
    weight.result.name_hint = value.name_hint
    Rewriter.replace_op(op, weight)


def _key(value: SSAValue) -> str:
    """A name for what a constant is: those of its sources, and what was done to them last."""
    op = value.owner
    assert isinstance(op, Operation)
    base = source_key(value)
    if isinstance(op, arith.ConstantOp):
        return base
    if isinstance(op, CastOp):
        role = str(tensor_type(value).element_type)
    elif isinstance(op, ElementwiseOp):
        role = _FUNCTION_ROLES.get(op.function.data, str(op.function.data))
    else:
        role = _ROLES.get(type(op), op.name.removeprefix("kaoken."))
    return f"{base}.{role}" if role else base


def source_key(value: SSAValue) -> str:
    """A readable name for the weights that a constant value is made of."""
    return joined_key(source_keys(value))


def source_keys(value: SSAValue) -> list[str]:
    """The keys of the weights that a constant value is made of."""
    owner = value.owner
    if isinstance(owner, WeightOp):
        return [owner.key.data]
    if isinstance(owner, arith.ConstantOp):
        return [value.name_hint or "constant"] if tensor_type(value).get_shape() else []
    if not isinstance(owner, KaokenOp):
        return []
    if isinstance(owner, DequantizeOp):
        return source_keys(owner.input)
    return [key for operand in owner.operands for key in source_keys(operand)]


def merge_equal_weights(block: Block) -> None:
    """One op for each key; the first one stays, at the start of the block."""
    first: dict[str, WeightOp] = {}
    for op in list(block.ops):
        if not isinstance(op, WeightOp):
            continue
        known = first.setdefault(op.key.data, op)
        if known is not op and known.result.type == op.result.type:
            Rewriter.replace_op(op, [], [known.result])

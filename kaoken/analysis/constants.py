"""Which values are known before the program runs: weights, dense constants and what they give."""

from __future__ import annotations

from xdsl.dialects import arith
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Block, Operation, SSAValue

from kaoken.dialect.base import KaokenOp, tensor_type
from kaoken.dialect.dims import DYNAMIC
from kaoken.dialect.nn import WeightOp


def is_stored(value: SSAValue) -> bool:
    """Whether a value is a weight or a dense constant itself."""
    return isinstance(value.owner, WeightOp | arith.ConstantOp) and isinstance(
        value.type, TensorType
    )


def is_constant(value: SSAValue) -> bool:
    """Whether a value depends on weights and constants alone and its sizes are known."""
    pending, seen = [value], set[SSAValue]()
    while pending:
        value = pending.pop()
        if value in seen or is_stored(value):
            continue
        seen.add(value)
        if not isinstance(value.owner, KaokenOp) or DYNAMIC in tensor_type(value).get_shape():
            return False
        pending.extend(value.owner.operands)
    return True


def hoist_constants(block: Block) -> None:
    """Move weights and what is made of them alone to the start of a block, in their order."""
    chosen: dict[Operation, None] = {}
    for op in block.ops:
        if len(op.results) != 1 or not is_stored(op.results[0]):
            if not op.operands or not isinstance(op, KaokenOp) or not is_constant(op.result):
                continue
        chosen.update(dict.fromkeys(v.owner for v in op.operands if isinstance(v.owner, Operation)))
        chosen[op] = None
    rest = next((op for op in block.ops if op not in chosen), None)
    for op in list(chosen):
        op.detach()
        if rest is None:
            block.add_op(op)
        else:
            block.insert_op_before(op, rest)

"""The symbolic shape of one value, for rewrite patterns.

`symbolic_shapes` reads a whole function; a pattern that asks about one operand in the middle of
rewriting uses `shape_of`, which remembers what it found.
"""

from __future__ import annotations

from itertools import count
from weakref import WeakKeyDictionary

from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from kaoken.analysis.shapes import argument_shapes
from kaoken.dialect.attributes import Shape
from kaoken.dialect.base import KaokenOp, operand_shape, tensor_type, type_shape
from kaoken.dialect.dims import Dim

_known: WeakKeyDictionary[SSAValue, Shape] = WeakKeyDictionary()
_unknowns = count()


def shape_of(value: SSAValue) -> Shape:
    """The shape of a tensor, in the symbols of its function's arguments.

    Sizes that nothing is known about get symbols of their own, so two sizes are equal only where
    they must be.
    """
    pending = [value]
    while pending:
        if (top := pending[-1]) in _known:
            pending.pop()
            continue
        missing = [v for v in _operands(top) if v not in _known]
        pending += missing
        if not missing:
            _known[top] = _shape_of_known_operands(top)
    return _known[value]


def infer(op: KaokenOp) -> Shape:
    """The shape that an op which is in no block yet would give, with its type's known sizes."""
    return _refine(op.infer_shape(*map(shape_of, op.operands)), op.result)


def _operands(value: SSAValue) -> tuple[SSAValue, ...]:
    return tuple(value.owner.operands) if isinstance(value.owner, KaokenOp) else ()


def _shape_of_known_operands(value: SSAValue) -> Shape:
    owner = value.owner
    if isinstance(owner, KaokenOp):
        return _refine(owner.infer_shape(*(_known[v] for v in owner.operands)), value)
    return (_argument_shape(value) if isinstance(value, BlockArgument) else None) or _fresh(value)


def _argument_shape(value: BlockArgument) -> Shape | None:
    func = value.block.parent_op()
    if not isinstance(func, FuncOp) or value.block is not func.body.blocks.first:
        return None
    return argument_shapes(func)[value.index]


def _fresh(value: SSAValue) -> Shape:
    assert isinstance(value.owner, Operation | Block)
    return operand_shape(value, f"unknown_value{next(_unknowns)}_")


def _refine(shape: Shape, value: SSAValue) -> Shape:
    """The inferred shape, with the numbers that the type knows and the inference does not."""
    known = type_shape(tensor_type(value))
    return tuple(
        Dim.of(k) if s.constant is None and k.constant is not None else s
        for s, k in zip(shape, known, strict=True)
    )

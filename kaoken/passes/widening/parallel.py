"""Parallel loops become vector dimensions: every value in them widens to all lanes at once."""

from __future__ import annotations

from xdsl.dialects import affine
from xdsl.ir import Block, Operation
from xdsl.rewriter import Rewriter

from kaoken.passes.loops import constant_trip_count, induction_variable
from kaoken.passes.widening.values import CannotWiden, Widener, erase_block


def widen_parallel(nest: list[affine.ForOp]) -> None:
    """Replace perfectly nested parallel loops of known extent by vectors.

    Raises CannotWiden, and changes nothing, when the body has no vector form.
    """
    extents = [constant_trip_count(loop) for loop in nest]
    shape = tuple(extent for extent in extents if extent is not None)
    assert len(shape) == len(nest)
    lanes = {induction_variable(loop): dim for dim, loop in enumerate(nest)}
    block = Block()
    try:
        Widener(shape, lanes, block).body(_ops_between(nest))
    except CannotWiden:
        erase_block(block)
        raise
    splice_before(block, nest[0])
    Rewriter.erase_op(nest[0])


def _ops_between(nest: list[affine.ForOp]) -> list[Operation]:
    """The ops of all the nest's bodies in order, without the inner loops themselves and yields."""
    ops: list[Operation] = []
    inner = set(nest[1:])
    for loop in nest:
        own = [op for op in loop.body.block.ops if op not in inner]
        ops.extend(op for op in own if not isinstance(op, affine.YieldOp))
    return ops


def splice_before(block: Block, op: Operation) -> None:
    """Move all ops of a detached block before an op."""
    target = op.parent
    assert target is not None
    for inner in list(block.ops):
        inner.detach()
        target.insert_op_before(inner, op)

"""Prefetching of what a later round of a loop reads, a little at each step of this round.

A panel of weights serves all tiles of rows, so memory has the time of them all to bring the next:

    affine.for %n0 = 0 to 48 step 3 {            prefetch(n0, 1)
      affine.for %m_in = 0 to %rows step 8 {
        affine.for %k = 0 to 768 ... {
          vector.transfer_read %w[%n0, %k, %zero] : memref<48x768x16xf32>, vector<8x3x16xf32>
->
      affine.for %m_in = 0 to %rows step 8 {
        %first = %m_in / 8 * 768
        %stride = 48 numbers a step, divided by the number of tiles and rounded up; at most a line
        affine.for %k = 0 to 768 ... {
          %place = (%first + %k) * %stride
          kaoken_loop.prefetch %w[%n0 + 3, %zero, %place] {locality = 2}
          vector.transfer_read %w[%n0, %k, %zero]

So `%place` goes once through the next panels as they lie in memory, while the tiles go many times
through these. Only whole tiles ask: fewer rows wait for memory whatever is asked for. What
`prefetch(k, D)` wants in the second cache is there then, so whole tiles no longer ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.builder import Builder
from xdsl.dialects import affine, arith, scf, vector
from xdsl.dialects.builtin import AffineMapAttr, IntegerAttr, MemRefType, UnitAttr
from xdsl.ir import Block, Operation, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.rewriter import InsertPoint

from kaoken.backend.machine import LINE_BYTES
from kaoken.dialect.kaoken_loop import PrefetchOp
from kaoken.passes.loops import constant_trip_count, induction_variable

ASKED = "kaoken_loop.prefetched"
"""On a loop whose next rounds are asked for."""
FLOAT_BYTES = 4
SECOND_CACHE = 2
"""MLIR's word (locality) for the cache that is asked to hold the lines."""


@dataclass(frozen=True)
class _Stream:
    """A read %source[%round, %step, ...] that goes through whole rows of what it reads."""

    read: vector.TransferReadOp
    tiles: affine.ForOp
    """The innermost loop that reads the same in each of its iterations, by..."""
    steps: tuple[affine.ForOp, ...]
    """...these loops."""

    @property
    def step_count(self) -> int:
        return prod(constant_trip_count(loop) or 0 for loop in self.steps)


def prefetch_rounds(loop: affine.ForOp, distance: int) -> bool:
    """Ask for what the loop reads so many iterations later; whether it has such reads."""
    if ASKED in loop.attributes:
        return True
    reads = [op for op in loop.walk() if isinstance(op, vector.TransferReadOp)]
    streams = [s for read in reads if (s := _stream(read, loop)) is not None]
    by_source: dict[tuple[SSAValue, affine.ForOp], list[_Stream]] = {}
    for stream in streams:
        by_source.setdefault((stream.read.source, stream.tiles), []).append(stream)
    for parts in by_source.values():
        steps = sum(part.step_count for part in parts)
        for part in parts:
            _ask(part, loop, distance, steps)
    if streams:
        loop.attributes[ASKED] = UnitAttr()
    return bool(streams)


def _stream(read: vector.TransferReadOp, loop: affine.ForOp) -> _Stream | None:
    """How a read goes through memory in one iteration of a loop, if it goes so."""
    around = _loops_between(read, loop)
    type_ = read.source.type
    if around is None or not isinstance(type_, MemRefType) or len(read.indices) < 2:
        return None
    if read.indices[0] is not induction_variable(loop) or -1 in type_.get_shape()[1:]:
        return None
    moving = tuple(a for a in around if _depends(read, induction_variable(a)))
    still = [a for a in around if a not in moving]
    if not still or not moving or around != [*still, *moving]:
        return None
    known = all(constant_trip_count(a) for a in moving)
    return _Stream(read, still[-1], moving) if known else None


def _loops_between(op: Operation, outer: affine.ForOp) -> list[affine.ForOp] | None:
    """The loops from one down to an op, in code for whole tiles; None elsewhere."""
    loops: list[affine.ForOp] = []
    block = op.parent
    while block is not None and (parent := block.parent_op()) is not outer:
        if isinstance(parent, affine.ForOp):
            loops.insert(0, parent)
        elif not (isinstance(parent, scf.IndexSwitchOp) and block.parent is parent.default_region):
            return None
        block = parent.parent
    return loops


def _depends(read: vector.TransferReadOp, value: SSAValue) -> bool:
    """Whether a value takes part in where a read lies, by index arithmetic."""
    pending, seen = list(read.indices), set[SSAValue]()
    while pending:
        index = pending.pop()
        if index is value:
            return True
        if index not in seen and isinstance(index.owner, Operation):
            pending += index.owner.operands
        seen.add(index)
    return False


def _ask(stream: _Stream, loop: affine.ForOp, distance: int, steps: int) -> None:
    """One line at each step: the place goes through the panels that the tiles will need."""
    read, type_ = stream.read, stream.read.source.type
    assert isinstance(type_, MemRefType)
    step = loop.step.value.data
    numbers = step * prod(type_.get_shape()[1:]) // steps
    outermost = stream.steps[0]
    before = Builder(InsertPoint.before(outermost))
    first = _affine(
        before,
        AffineExpr.dimension(0) // stream.tiles.step.value.data * steps,
        induction_variable(stream.tiles),
    )
    stride = _stride(before, stream.tiles, numbers)
    zero = _constant(before, 0)
    builder = Builder(InsertPoint.before(_first_read(read)))
    both = AffineExpr.dimension(0) + AffineExpr.dimension(1)
    at = _affine(builder, both, first, _copied(builder, read.indices[1], read.parent))
    place = builder.insert(arith.MuliOp(at, stride)).result
    next_ = _affine(builder, AffineExpr.dimension(0) + step * distance, induction_variable(loop))
    inner = [zero] * (len(read.indices) - 2)
    _forget(read)
    builder.insert(PrefetchOp(read.source, [next_, *inner, place], SECOND_CACHE))


def _forget(read: vector.TransferReadOp) -> None:
    """Leave out the hints around a read that ask for a later step's part of it in the cache that
    the round before brought it to."""
    assert read.parent is not None
    hints = [op for op in read.parent.ops if isinstance(op, PrefetchOp)]
    for op in hints:
        if op.memref is read.source and op.locality.value.data == SECOND_CACHE:
            op.detach()
            op.erase()


def _first_read(read: vector.TransferReadOp) -> Operation:
    """The first of the reads around one: a hint between them would part them from their uses."""
    assert read.parent is not None
    return next(op for op in read.parent.ops if isinstance(op, vector.TransferReadOp))


def _copied(builder: Builder, index: SSAValue, block: Block | None) -> SSAValue:
    """An index of index arithmetic, computed anew here where it is computed in the block."""
    owner = index.owner
    if not isinstance(owner, Operation) or owner.parent is not block:
        return index
    operands = [_copied(builder, operand, block) for operand in owner.operands]
    return builder.insert(owner.clone(dict(zip(owner.operands, operands, strict=True)))).results[0]


def _stride(builder: Builder, tiles: affine.ForOp, numbers: int) -> SSAValue:
    """Numbers to pass at each step, so that all whole tiles together pass `numbers` a step.

    A step passes a line at most: few tiles bring the beginning of the next panels, line by line,
    and leave the end to the tile that reads it first.
    """
    line = LINE_BYTES // FLOAT_BYTES
    trips = constant_trip_count(tiles)
    if trips is not None:
        return _constant(builder, min(-(-numbers // trips), line))
    extent, operands = tiles.upperBoundMap.data, list(tiles.upperBoundOperands)
    rows = builder.insert(affine.MinOp(operands, AffineMapAttr(extent))).result
    height = _constant(builder, tiles.step.value.data)
    whole = builder.insert(arith.DivUIOp(rows, height)).result
    shared = builder.insert(arith.CeilDivSIOp(_constant(builder, numbers), whole)).result
    return builder.insert(arith.MinSIOp(shared, _constant(builder, line))).result


def _constant(builder: Builder, value: int) -> SSAValue:
    return builder.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(value))).result


def _affine(builder: Builder, expression: AffineExpr, *operands: SSAValue) -> SSAValue:
    map_ = AffineMap(len(operands), 0, (expression,))
    return builder.insert(affine.ApplyOp(list(operands), AffineMapAttr(map_))).result

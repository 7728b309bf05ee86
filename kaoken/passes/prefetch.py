"""`prefetch`: ask for what a loop reads some iterations later, as `prefetch(loop, distance)` says.

    affine.for %k = 0 to 768 ... {         affine.for %k = 0 to 768 ... {
      %w = vector.transfer_read        ->    %ahead = affine.apply (d0) -> (d0 + 16) (%k)
        %panel[%k, %zero]                    kaoken_loop.prefetch %panel[%ahead, %zero]
        : vector<48xf32>                     ... one for each cache line of the 48 floats
                                             %w = vector.transfer_read %panel[%k, %zero]

Reads of whole cache lines whose place changes with the loop are asked for; of smaller ones many
iterations share a line, which the CPU fetches by itself. The last iterations ask for what lies
after the loop's end: in row-major memory that is what the next round of the loop around it reads.
A CPU fetches along a page by itself but does not know the next one, which is where this helps:
distances of less than a page (4 KB) gained the most. What is read within the next KB goes into the
first cache, where it then also does not wait for the second; the rest goes into the second.

A loop that reads nothing itself, but has loops inside that do, asks for what its later rounds read
(`prefetching/rounds.py`).

A product that a matrix unit computes asks by itself for its right factor: here it is told how far
ahead, in steps of the loop that it took the place of.

    kaoken_loop.contract ...        ->     kaoken_loop.contract ... {ahead = array<i64: 96>}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import affine, arith, memref, scf, vector
from xdsl.dialects.builtin import (
    AffineMapAttr,
    DenseArrayBase,
    IndexType,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    StringAttr,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint

from kaoken.backend.machine import LINE_BYTES
from kaoken.dialect.attributes import Directive, ScheduleAttr
from kaoken.dialect.kaoken_loop import NAME, ContractOp, PrefetchOp
from kaoken.dtypes import numpy_dtype
from kaoken.passes.loops import induction_variable, loop_name, scheduled_functions
from kaoken.passes.lowering.nest import may_be_dimension
from kaoken.passes.prefetching.rounds import SECOND_CACHE, prefetch_rounds
from kaoken.passes.strict import kind_of, settle
from kaoken.passes.vectorize import VectorizePass

Loop = affine.ForOp | scf.ForOp
FIRST_CACHE = 3
"""MLIR's word (locality) for the cache that is asked to hold the lines."""
NEAR_BYTES = 1024
"""How far ahead in a stream what goes into the first cache may be."""


@dataclass(frozen=True)
class PrefetchPass(ModulePass):
    """Prefetch by the `prefetch` directives of each kernel."""

    name = "prefetch"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if not any(map(_asks, op.walk())):
            return
        VectorizePass().apply(ctx, op)
        for function, schedule in scheduled_functions(op):
            inner_first = sorted(schedule.all("prefetch"), key=lambda d: -_depth(function, d))
            for directive in inner_first:
                _obey(function, directive)


def _depth(function: FuncOp, directive: Directive) -> int:
    """How many ops there are around the loops that a directive names."""
    loops = _loops_named(function, str(directive.args[0]))
    return max((len(list(_around(loop))) for loop in loops), default=0)


def _around(op: Operation) -> Iterator[Operation]:
    """What an op stands in, from the inside out."""
    while (parent := op.parent_op()) is not None:
        yield parent
        op = parent


def _obey(function: FuncOp, directive: Directive) -> None:
    """Prefetch in all loops that a directive names."""
    name, distance = str(directive.args[0]), directive.args[1]
    assert isinstance(distance, int)
    outcomes = [_prefetch(loop, distance) for loop in _loops_named(function, name)]
    outcomes += [_extend(op, distance) for op in _contractions(function, name)]
    reason = f"{kind_of(function, name)} reads no whole cache line at each step"
    settle(function, directive, [None if done else reason for done in outcomes])


def _asks(op: Operation) -> bool:
    """Whether an op or kernel has a schedule that prefetches something."""
    attributes = (*op.attributes.values(), *op.properties.values())
    return any(isinstance(a, ScheduleAttr) and a.all("prefetch") for a in attributes)


def _contractions(function: FuncOp, name: str) -> list[ContractOp]:
    """What took the place of the loops of that name."""
    found = [op for op in function.walk() if isinstance(op, ContractOp)]
    return [op for op in found if op.attributes.get(NAME) == StringAttr(name)]


def _extend(op: ContractOp, distance: int) -> bool:
    """Let a contraction ask for words so far ahead too."""
    distances = dict.fromkeys((*op.distances, distance))
    op.ahead = DenseArrayBase.from_list(i64, list(distances))
    return True


def _loops_named(function: FuncOp, name: str) -> list[Loop]:
    """All loops of that name, those whose bounds are known late among them."""
    return [
        op
        for op in function.walk()
        if isinstance(op, affine.ForOp | scf.ForOp) and loop_name(op) == name
    ]


def _prefetch(loop: Loop, distance: int) -> bool:
    """Ask for what the loop's reads, or those inside it, will need; whether it has any."""
    if any(isinstance(op, PrefetchOp) for op in loop.body.block.ops):
        return True
    reads = [op for op in loop.body.block.ops if isinstance(op, vector.TransferReadOp)]
    streams = [read for read in reads if _lines(read) and _follows(read, loop)]
    if not streams:
        return isinstance(loop, affine.ForOp) and prefetch_rounds(loop, distance)
    first = loop.body.block.first_op
    assert first is not None
    builder = Builder(InsertPoint.before(first))
    later = {induction_variable(loop): _plus(builder, induction_variable(loop), distance)}
    for read in streams:
        indices = [_at(builder, index, loop, later) for index in read.indices]
        near = distance * _row_bytes(read) <= NEAR_BYTES
        for line in _lines(read):
            place = [_plus(builder, i, d) for i, d in zip(indices, line, strict=True)]
            builder.insert(PrefetchOp(read.source, place, FIRST_CACHE if near else SECOND_CACHE))
    return True


def _lines(read: vector.TransferReadOp) -> list[tuple[int, ...]]:
    """Where each cache line of a read begins, as what to add to its indices; none when a row of
    it is less than one line."""
    shape, rank = read.result.type.get_shape(), len(read.indices)
    line = LINE_BYTES // numpy_dtype(read.result.type.element_type).itemsize
    walked = {
        e.position: range(size)
        for e, size in zip(read.permutation_map.data.results, shape, strict=True)
        if isinstance(e, AffineDimExpr)
    }
    row = len(walked.get(rank - 1, ()))
    if row < line:
        return []
    walked[rank - 1] = range(0, row, line)
    return list(product(*(walked.get(dim, range(1)) for dim in range(rank))))


def _row_bytes(read: vector.TransferReadOp) -> int:
    """What a read takes of one row of memory, at each step."""
    type_ = read.result.type
    return type_.get_shape()[-1] * numpy_dtype(type_.element_type).itemsize


def _follows(read: vector.TransferReadOp, loop: Loop) -> bool:
    """Whether a read's place is made of the loop's index, numbers from outside and what a list
    says, in index arithmetic."""
    sources = [op for index in read.indices for op in _inside(index, loop)]
    ivs = {induction_variable(loop)} & {v for op in sources for v in op.operands}
    varies = bool(ivs) or induction_variable(loop) in read.indices
    return varies and all(map(_is_index_arithmetic, sources))


def _is_index_arithmetic(op: Operation) -> bool:
    """A list of integers may be read too: it is longer than its loop by what is fetched ahead."""
    if isinstance(op, memref.LoadOp):
        return isinstance(op.res.type, IntegerType)
    if isinstance(op, arith.IndexCastOp):
        return isinstance(op.result.type, IndexType)
    return all(isinstance(v.type, IndexType) for v in op.operands)


def _inside(value: SSAValue, loop: Loop) -> Iterator[Operation]:
    """The ops of the loop's body that make a value, in order."""
    owner = value.owner
    if isinstance(owner, Operation) and owner.parent is loop.body.block:
        for operand in owner.operands:
            yield from _inside(operand, loop)
        yield owner


def _at(builder: Builder, value: SSAValue, loop: Loop, later: dict[SSAValue, SSAValue]) -> SSAValue:
    """An index in a later iteration."""
    for op in _inside(value, loop):
        if op.results[0] not in later:
            later[op.results[0]] = builder.insert(op.clone(later)).results[0]
    return later.get(value, value)


def _plus(builder: Builder, value: SSAValue, number: int) -> SSAValue:
    if number == 0:
        return value
    if not may_be_dimension(value):
        constant = builder.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(number)))
        return builder.insert(arith.AddiOp(value, constant)).result
    moved = AffineMap(1, 0, (AffineExpr.dimension(0) + number,))
    return builder.insert(affine.ApplyOp([value], AffineMapAttr(moved))).result

"""`tile`: split loops into blocks as the schedule's `tile(loop, size)` says.

    affine.for %m = 0 to %M {                  affine.for %m = 0 to %M step 8 {
      ... %m ...                        ->       affine.for %m_in = 0 to min(8, %M - %m) {
    }                                              ... %m + %m_in ...

A known extent that the block does not divide leaves a second, shorter inner loop behind the blocks;
an extent within one block needs no outer loop. Reductions of open extent stay whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import affine, arith
from xdsl.dialects.builtin import AffineMapAttr, IndexType, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Block, Region, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.dialect import kaoken_loop
from kaoken.passes.loops import (
    constant_trip_count,
    induction_variable,
    is_parallel,
    loop_name,
    loops_named,
    scheduled_functions,
)
from kaoken.passes.lower_to_loops import LowerToLoopsPass
from kaoken.passes.strict import settle


@dataclass(frozen=True)
class TilePass(ModulePass):
    """Split loops by the `tile` directives of each kernel."""

    name = "tile"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        LowerToLoopsPass().apply(ctx, op)
        for function, schedule in scheduled_functions(op):
            for directive in schedule.all("tile"):
                name, size = directive.args
                assert isinstance(size, int)
                loops = loops_named(function, str(name))
                settle(function, directive, [_tile(loop, size) for loop in loops])


def _tile(loop: affine.ForOp, size: int) -> str | None:
    """Split one loop, or say why not; one that steps already is a block loop."""
    if size < 1:
        return "a block must have at least one iteration"
    if loop.step.value.data != 1:
        return f"{loop_name(loop)} is in blocks already: split {loop_name(loop)}_in"
    trips = constant_trip_count(loop)
    if trips is None and not is_parallel(loop):
        return f"{loop_name(loop)} is a reduction of open extent"
    if trips is not None and trips <= size:
        loop.attributes[kaoken_loop.NAME] = StringAttr(f"{loop_name(loop)}_in")
        induction_variable(loop).name_hint = f"{loop_name(loop)}"
    elif trips is not None:
        _tile_constant(loop, trips, size)
    else:
        _tile_open(loop, size)
    return None


def _tile_constant(loop: affine.ForOp, trips: int, size: int) -> None:
    """Whole blocks, then what is left."""
    whole, rest = trips - trips % size, trips % size
    builder = Builder(InsertPoint.before(loop))
    values = list(loop.inits)
    values = _blocks(builder, loop, AffineMap.constant_map(whole), [], size, values, size)
    if rest:
        start = builder.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(whole))).result
        values = _inner(builder, loop, start, AffineMap.constant_map(rest), [], values)
    Rewriter.replace_op(loop, [], values)


def _tile_open(loop: affine.ForOp, size: int) -> None:
    """Blocks of `size`, the last one as long as what is left."""
    builder = Builder(InsertPoint.before(loop))
    extent = loop.upperBoundMap.data
    _blocks(builder, loop, extent, list(loop.upperBoundOperands), size, [], None)
    Rewriter.erase_op(loop)


def _blocks(
    builder: Builder,
    loop: affine.ForOp,
    extent: AffineMap,
    operands: list[SSAValue],
    size: int,
    values: list[SSAValue],
    inner_size: int | None,
) -> list[SSAValue]:
    """The loop over blocks, around a loop inside a block of `inner_size` or what is left."""
    block = Block(arg_types=[IndexType(), *(v.type for v in values)])
    block.args[0].name_hint = loop_name(loop)
    outer = affine.ForOp.from_region(
        [],
        operands,
        values,
        [v.type for v in values],
        0,
        AffineMapAttr(extent),
        Region(block),
        size,
    )
    outer.attributes.update(loop.attributes)
    builder.insert(outer)
    inside = Builder(InsertPoint.at_end(block))
    inner_map, inner_operands = _inner_extent(extent, operands, size, inner_size, block.args[0])
    carried: list[SSAValue] = list(block.args[1:])
    results = _inner(inside, loop, block.args[0], inner_map, inner_operands, carried)
    inside.insert(affine.YieldOp.get(*results))
    return list(outer.results)


def _inner_extent(
    extent: AffineMap,
    operands: list[SSAValue],
    size: int,
    inner_size: int | None,
    start: SSAValue,
) -> tuple[AffineMap, list[SSAValue]]:
    if inner_size is not None:
        return AffineMap.constant_map(inner_size), []
    first = AffineExpr.dimension(extent.num_dims)
    left = tuple(result - first for result in extent.results)
    dims, symbols = operands[: extent.num_dims], operands[extent.num_dims :]
    bound = AffineMap(extent.num_dims + 1, extent.num_symbols, (AffineExpr.constant(size), *left))
    return bound, [*dims, start, *symbols]


def _inner(
    builder: Builder,
    loop: affine.ForOp,
    start: SSAValue,
    extent: AffineMap,
    operands: list[SSAValue],
    values: list[SSAValue],
) -> list[SSAValue]:
    """A copy of the loop over 0 .. extent whose body sees start + its index."""
    body = loop.clone().detach_region(0)
    old = body.block.args[0]
    index = body.block.insert_arg(IndexType(), 0)
    index.name_hint = f"{loop_name(loop)}_in"
    whole = affine.ApplyOp([start, index], AffineMapAttr(_SUM))
    whole.result.name_hint = old.name_hint
    first = body.block.first_op
    assert first is not None
    body.block.insert_op_before(whole, first)
    old.replace_all_uses_with(whole.result)
    body.block.erase_arg(old)
    inner = affine.ForOp.from_region(
        [], operands, values, [v.type for v in values], 0, AffineMapAttr(extent), body, 1
    )
    inner.attributes.update(loop.attributes)
    inner.attributes[kaoken_loop.NAME] = StringAttr(f"{loop_name(loop)}_in")
    builder.insert(inner)
    return list(inner.results)


_SUM = AffineMap(2, 0, (AffineExpr.dimension(0) + AffineExpr.dimension(1),))

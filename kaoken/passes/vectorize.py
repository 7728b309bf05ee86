"""`vectorize`: turn loops into the dimensions of vectors, as the schedule's `vectorize` says.

    affine.for %m_in = 0 to 8 {
      affine.for %n1 = 0 to 48 {                 %acc = affine.for %k = 0 to 384 iter_args(%a) {
        %acc = affine.for %k = 0 to 384 {   ->     %x = vector.transfer_read ... : vector<8x48xf32>
          ... memref.load, math.fma ...            %r = vector.fma %x, %w, %a : vector<8x48xf32>
        }                                        }
        memref.store %acc, %y[%m, %n]            vector.transfer_write %acc, %y[%m, %n]

Parallel loops are widened from the outside in, so that a reduction inside them carries a whole
register tile. A loop whose extent is min(8, what is left) gets a copy for each count. A reduction
loop is widened to partial results in lanes, combined after the loop in a fixed order. Loops that
hold something without a vector form stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import affine, func, scf
from xdsl.dialects.builtin import (
    AffineMapAttr,
    DenseArrayBase,
    ModuleOp,
    i64,
)
from xdsl.ir import Block, Operation, Region
from xdsl.ir.affine import AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.transforms.common_subexpression_elimination import cse
from xdsl.transforms.dead_code_elimination import dce

from kaoken.passes.loops import (
    constant_trip_count,
    is_parallel,
    is_reduction,
    largest_extent,
    loop_name,
    loops_named,
    scheduled_functions,
    sole_inner_loop,
)
from kaoken.passes.strict import no_loop, settle
from kaoken.passes.tensorize import TensorizePass
from kaoken.passes.widening.parallel import widen_parallel
from kaoken.passes.widening.reduction import widen_reduction
from kaoken.passes.widening.values import CannotWiden

MAX_VERSIONS = 64
"""The most row counts that get code of their own."""


@dataclass(frozen=True)
class VectorizePass(ModulePass):
    """Widen loops by the `vectorize` directives of each kernel."""

    name = "vectorize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        TensorizePass().apply(ctx, op)
        for function, schedule in scheduled_functions(op):
            for directive in schedule.all("vectorize"):
                names = [str(name) for name in directive.args]
                settle(function, directive, list(_vectorize(function, names)))
            cse(function)
        dce(op)


def _vectorize(function: func.FuncOp, names: list[str]) -> Iterator[str | None]:
    """Widen all loops of these names; for each None, or why it is left."""
    for name in names:
        if not loops_named(function, name):
            yield no_loop(function, name)
    for loop in loops_named(function, names[0]):
        if loop.step.value.data != 1:
            yield _in_blocks(loop)
        elif is_reduction(loop):
            yield _try(lambda loop=loop: widen_reduction(loop), names)
        elif _nest(loop, names) is None:
            yield _obstacle(loop, names)
        elif versions := _versions(loop):
            nests = [_nest(version, names) or [] for version in versions]
            yield from [_try(lambda nest=nest: widen_parallel(nest), names) for nest in nests]
        else:
            yield _open_extent(loop)


def _in_blocks(loop: affine.ForOp) -> str:
    return f"{loop_name(loop)} is a loop over blocks: widen {loop_name(loop)}_in"


def _open_extent(loop: affine.ForOp) -> str:
    most = largest_extent(loop)
    if most is None:
        return f"{loop_name(loop)} has no known extent: tile it first"
    return f"{loop_name(loop)} has up to {most} iterations: {MAX_VERSIONS} at most get own code"


def _try(widen: Callable[[], None], names: list[str]) -> str | None:
    """Why it could not be done, if it could not."""
    try:
        widen()
    except CannotWiden as error:
        return f"{' and '.join(names)} cannot be widened: {error} has no vector form"
    return None


def _obstacle(loop: affine.ForOp, names: list[str]) -> str:
    """Why the loops called `names` are no nest of parallel loops of fixed extent."""
    outer = loop
    for name in names[1:]:
        inner = sole_inner_loop(outer)
        if inner is None or loop_name(inner) != name:
            return f"{name} is not alone in, and right inside, {loop_name(outer)}"
        if inner.step.value.data != 1:
            return _in_blocks(inner)
        if constant_trip_count(inner) is None:
            return f"{name} has no known extent: tile it first"
        outer = inner
    return f"{' and '.join(names)} are not all parallel"


def _nest(loop: affine.ForOp, names: list[str]) -> list[affine.ForOp] | None:
    """The loops called `names`, each alone in the one before; None where they are not so."""
    nest = [loop]
    for name in names[1:]:
        inner = sole_inner_loop(nest[-1])
        if inner is None or loop_name(inner) != name:
            return None
        nest.append(inner)
    fixed = all(constant_trip_count(inner) is not None for inner in nest[1:])
    whole = all(inner.step.value.data == 1 for inner in nest)
    return nest if fixed and whole and all(map(is_parallel, nest)) else None


def _versions(loop: affine.ForOp) -> list[affine.ForOp]:
    """The loop itself when its extent is known, else a copy for each extent that it can have."""
    if constant_trip_count(loop) is not None:
        return [loop]
    most = largest_extent(loop)
    if most is None or most > MAX_VERSIONS:
        return []
    builder = Builder(InsertPoint.before(loop))
    extent = affine.MinOp(list(loop.upperBoundOperands), loop.upperBoundMap)
    builder.insert(extent)
    extent.results[0].name_hint = "rows"
    copies = [_copy_with_extent(loop, count) for count in range(1, most + 1)]
    regions = [_region_of(copy) for copy in copies]
    switch = scf.IndexSwitchOp(
        extent.results[0],
        DenseArrayBase.from_list(i64, list(range(1, most))),
        regions[-1],
        regions[:-1],
        [],
    )
    builder.insert(switch)
    Rewriter.erase_op(loop)
    return copies


def _copy_with_extent(loop: affine.ForOp, extent: int) -> affine.ForOp:
    body = loop.clone().detach_region(0)
    copy = affine.ForOp.from_region(
        [], [], [], [], 0, AffineMapAttr(AffineMap.constant_map(extent)), body, 1
    )
    copy.attributes.update(loop.attributes)
    return copy


def _region_of(op: Operation) -> Region:
    return Region(Block([op, scf.YieldOp()]))

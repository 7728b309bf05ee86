"""What the loop passes share: names and kinds of loops, extents, schedules of kernels."""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects import affine, arith, func, scf
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineSymExpr

from kaoken.dialect import kaoken_loop
from kaoken.dialect.attributes import ScheduleAttr

_INDEX_OPS = (
    affine.YieldOp,
    affine.ApplyOp,
    arith.ConstantOp,
    arith.AddiOp,
    arith.MuliOp,
)


def scheduled_functions(module: ModuleOp) -> Iterator[tuple[func.FuncOp, ScheduleAttr]]:
    """The kernels that carry a schedule."""
    for op in module.ops:
        if not isinstance(op, func.FuncOp):
            continue
        schedule = op.attributes.get("kaoken.schedule")
        if isinstance(schedule, ScheduleAttr):
            yield op, schedule


def loop_name(loop: affine.ForOp | scf.ForOp) -> str:
    """The name that schedules know a loop by; empty when it has none."""
    name = loop.attributes.get(kaoken_loop.NAME)
    return name.data if isinstance(name, StringAttr) else ""


def is_parallel(loop: affine.ForOp) -> bool:
    return loop.attributes.get(kaoken_loop.KIND) == kaoken_loop.PARALLEL


def is_reduction(loop: affine.ForOp | scf.ForOp) -> bool:
    return loop.attributes.get(kaoken_loop.KIND) == kaoken_loop.REDUCTION


def loops_named(root: Operation, name: str) -> list[affine.ForOp]:
    """All loops of that name below an op, outer ones first."""
    return [op for op in root.walk() if isinstance(op, affine.ForOp) and loop_name(op) == name]


def sole_inner_loop(loop: affine.ForOp) -> affine.ForOp | None:
    """The loop that, but for index arithmetic, is all of another loop's body."""
    inner: affine.ForOp | None = None
    for op in loop.body.block.ops:
        if isinstance(op, affine.ForOp) and inner is None and not op.inits:
            inner = op
        elif not isinstance(op, _INDEX_OPS):
            return None
    return inner


def constant_trip_count(loop: affine.ForOp) -> int | None:
    """How often a loop runs, where its bounds are numbers."""
    if loop.lowerBoundOperands or loop.upperBoundOperands:
        return None
    low = max(loop.lowerBoundMap.data.eval([], []))
    high = min(loop.upperBoundMap.data.eval([], []))
    step = loop.step.value.data
    return max(0, -(-(high - low) // step))


def largest_extent(loop: affine.ForOp) -> int | None:
    """The most iterations of a loop over min(8, what is left), from the number in it."""
    numbers = [e for e in loop.upperBoundMap.data.results if _is_number(e)]
    if loop.lowerBoundOperands or not numbers:
        return None
    return min(e.eval([], []) for e in numbers)


def _is_number(expr: AffineExpr) -> bool:
    return not any(isinstance(e, AffineDimExpr | AffineSymExpr) for e in expr.dfs())


def induction_variable(loop: affine.ForOp | scf.ForOp) -> SSAValue:
    return loop.body.block.args[0]

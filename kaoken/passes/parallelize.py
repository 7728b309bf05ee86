"""`parallelize`: divide the outer loops of kernels among the members of a thread team.

    affine.for %n0 = 0 to 24 {           %id, %count = the team's member and size
      ...                           ->   affine.for %n0 = (24 * %id) / %count
                                                    to (24 * (%id + 1)) / %count {

Every member runs the whole program (SPMD) and takes its fixed part of each loop that the
schedule's `parallel(loop)` names; what is not divided is done by the last member alone. Callers
wait at a barrier after each kernel, unless it and the next are undivided: the same member does
both. How loops are divided changes no sum, so results are equal, bit for bit, whatever the number
of threads. For one thread nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import affine, arith, func, memref, scf, vector
from xdsl.dialects.builtin import (
    AffineMapAttr,
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    i64,
)
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from kaoken.dialect.attributes import ScheduleAttr
from kaoken.dialect.kaoken_loop import BarrierOp, ContractOp, NumThreadsOp, TeamType, ThreadIdOp
from kaoken.errors import KaokenError
from kaoken.passes.loops import is_parallel, loop_name, loops_named, sole_inner_loop
from kaoken.passes.prefetch import PrefetchPass
from kaoken.passes.strict import kind_of, no_loop, settle
from kaoken.passes.unroll import UnrollPass
from kaoken.passes.vectorize import VectorizePass

THREADS = "kaoken.threads"
MAX_THREADS = 256


@dataclass(frozen=True)
class ParallelizePass(ModulePass):
    """Divide kernels among up to `threads` threads."""

    name = "parallelize"

    threads: int = 1
    """The most threads that the code may be run by."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if not 1 <= self.threads <= MAX_THREADS:
            raise KaokenError(f"threads is {self.threads}: give a number from 1 to {MAX_THREADS}")
        if self.threads == 1 or THREADS in op.attributes:
            return
        VectorizePass().apply(ctx, op)
        PrefetchPass().apply(ctx, op)
        UnrollPass().apply(ctx, op)
        op.attributes[THREADS] = IntegerAttr(self.threads, i64)
        functions = [f for f in op.ops if isinstance(f, func.FuncOp)]
        teams = {f.sym_name.data: _add_team(f) for f in functions}
        kernels = [f for f in functions if _is_kernel(f)]
        undivided = {f.sym_name.data for f in kernels if not _divide(f, teams[f.sym_name.data])}
        names = {f.sym_name.data for f in kernels}
        for function in functions:
            calls = [c for c in function.walk() if isinstance(c, func.CallOp)]
            _pass_on(calls, teams[function.sym_name.data], names, undivided)


def _is_kernel(function: func.FuncOp) -> bool:
    return not any(isinstance(op, func.CallOp) for op in function.walk())


def _add_team(function: func.FuncOp) -> SSAValue:
    team = function.body.block.insert_arg(TeamType(), len(function.args))
    team.name_hint = "team"
    attributes = function.arg_attrs.data if function.arg_attrs is not None else ()
    if attributes:
        function.arg_attrs = ArrayAttr([*attributes, DictionaryAttr({})])
    types = function.function_type
    function.function_type = FunctionType.from_lists(
        [*types.inputs.data, TeamType()], list(types.outputs.data)
    )
    return team


def _pass_on(
    calls: list[func.CallOp], team: SSAValue, kernels: set[str], undivided: set[str]
) -> None:
    """Give the team to every callee, and wait for all members after a kernel.

    Between two kernels that are one member's alone nobody waits: it is the same member.
    """
    for call in calls:
        call.operands = [*call.operands, team]
        if _callee(call) in kernels and not {_callee(call), _next_callee(call)} <= undivided:
            Builder(InsertPoint.after(call)).insert(BarrierOp(team))


def _callee(call: func.CallOp) -> str:
    return call.callee.root_reference.data


def _next_callee(call: func.CallOp) -> str | None:
    """What is called next, where only pointers and sizes are made before."""
    after = call.next_op
    while after is not None and not isinstance(after, func.CallOp):
        if after.regions or isinstance(after, memref.LoadOp | memref.StoreOp | memref.CopyOp):
            return None
        after = after.next_op
    return None if after is None else _callee(after)


def _divide(function: func.FuncOp, team: SSAValue) -> bool:
    """Divide the named outer loops; the rest of the body goes to one member.

    What only computes a value is left to all: a divided loop may use it. Where nothing is divided,
    or what gives a value stores as well, one member does everything. Whether a loop was divided.
    """
    schedule = function.attributes.get("kaoken.schedule")
    directives = schedule.all("parallel") if isinstance(schedule, ScheduleAttr) else []
    names = {str(d.args[0]) for d in directives}
    *ops, _ = function.body.block.ops
    loops = {op: loop for op in ops if (loop := _named(op, names)) is not None}
    if any(op.results and _stores(op) for op in ops):
        loops = {}
    done = {loop_name(loop) for loop in loops.values()}
    if ops:
        _share(ops, loops, team)
    for directive in directives:
        settle(function, directive, [_refusal(function, str(directive.args[0]), done)])
    return bool(loops)


def _share(ops: list[Operation], loops: dict[Operation, affine.ForOp], team: SSAValue) -> None:
    """Divide loops, each in the op that it is given for, and leave the other ops to one member."""
    builder = Builder(InsertPoint.before(ops[0]))
    member = builder.insert(ThreadIdOp(team)).result
    count = builder.insert(NumThreadsOp(team)).result
    alone = _is_last(builder, member, count)
    if not loops:
        _guard(ops, alone)
        return
    for op in ops:
        if op in loops:
            _divide_loop(loops[op], member, count)
        elif _stores(op):
            _guard([op], alone)


def _stores(op: Operation) -> bool:
    stores = memref.StoreOp | vector.TransferWriteOp | ContractOp
    return any(isinstance(o, stores) for o in op.walk())


def _refusal(function: func.FuncOp, name: str, divided: set[str]) -> str | None:
    """Why no loop of that name was divided, if none was."""
    if name in divided:
        return None
    if not loops_named(function, name):
        return no_loop(function, name)
    subject = kind_of(function, name)
    if "reduction" in subject:
        return f"{subject} cannot be divided: sums must not depend on the number of threads"
    return f"{subject} cannot be divided: it is not alone in the loops around it"


def _named(op: Operation, names: set[str]) -> affine.ForOp | None:
    """The loop that an op is, or one that it alone contains, that is to be divided."""
    inner = op if isinstance(op, affine.ForOp) else None
    while inner is not None and not (loop_name(inner) in names and is_parallel(inner)):
        inner = sole_inner_loop(inner)
    return inner


def _is_last(builder: Builder, member: SSAValue, count: SSAValue) -> SSAValue:
    one = builder.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(1))).result
    next_ = builder.insert(arith.AddiOp(member, one)).result
    return builder.insert(arith.CmpiOp(next_, count, "eq")).result


def _divide_loop(loop: affine.ForOp, member: SSAValue, count: SSAValue) -> None:
    """Give the loop a member's bounds: at the function's top level, where MLIR takes them."""
    builder = Builder(InsertPoint.before(_outermost(loop)))
    step = loop.step.value.data
    extent = loop.upperBoundMap.data
    trips = AffineMap(
        extent.num_dims, extent.num_symbols, tuple(e.ceil_div(step) for e in extent.results)
    )
    total = builder.insert(
        affine.MinOp(list(loop.upperBoundOperands), AffineMapAttr(trips))
        if len(trips.results) > 1
        else affine.ApplyOp(list(loop.upperBoundOperands), AffineMapAttr(trips))
    ).results[0]
    one = builder.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(1))).result
    after = builder.insert(arith.AddiOp(member, one)).result
    low, high = (_part(builder, total, m, count) for m in (member, after))
    bounds = [_scaled(builder, v, step) for v in (low, high)]
    as_given = AffineMapAttr(AffineMap(0, 1, (AffineExpr.symbol(0),)))
    if step > 1:
        bounds[1] = _at_most(builder, bounds[1], loop)
    divided = affine.ForOp.from_region(
        [bounds[0]],
        [bounds[1]],
        [],
        [],
        as_given,
        as_given,
        loop.detach_region(0),
        step,
    )
    divided.attributes.update(loop.attributes)
    Rewriter.replace_op(loop, divided)


def _outermost(loop: affine.ForOp) -> Operation:
    """The outermost op around the loop, or itself, before which its extent is known."""
    op: Operation = loop
    while isinstance(parent := op.parent_op(), affine.ForOp):
        if any(parent.is_ancestor(operand.owner) for operand in loop.upperBoundOperands):
            break
        op = parent
    return op


def _part(builder: Builder, total: SSAValue, member: SSAValue, count: SSAValue) -> SSAValue:
    product = builder.insert(arith.MuliOp(total, member)).result
    return builder.insert(arith.DivUIOp(product, count)).result


def _scaled(builder: Builder, value: SSAValue, step: int) -> SSAValue:
    if step == 1:
        return value
    factor = builder.insert(arith.ConstantOp(IntegerAttr.from_index_int_value(step))).result
    return builder.insert(arith.MuliOp(value, factor)).result


def _at_most(builder: Builder, high: SSAValue, loop: affine.ForOp) -> SSAValue:
    """The last block may be shorter than the step."""
    extent = loop.upperBoundMap.data
    limit = AffineMap(
        extent.num_dims + 1,
        extent.num_symbols,
        (*extent.results, AffineExpr.dimension(extent.num_dims)),
    )
    operands = list(loop.upperBoundOperands)
    dims, symbols = operands[: extent.num_dims], operands[extent.num_dims :]
    return builder.insert(affine.MinOp([*dims, high, *symbols], AffineMapAttr(limit))).result


def _guard(ops: list[Operation], condition: SSAValue) -> None:
    """Run neighbouring ops under a condition."""
    body = Block()
    guarded = scf.IfOp(condition, [], Region(body))
    Builder(InsertPoint.before(ops[0])).insert(guarded)
    for op in ops:
        op.detach()
    body.add_ops([*ops, scf.YieldOp()])

"""`instrument`: have the model note how long each call of a kernel takes.

    func.call @linear(%x, %w, %y, %team)          func.call @linear(%x, %w, %y, %team)
    kaoken_loop.barrier %team                 ->  kaoken_loop.lap %timers {timer = 3 : i64}
                                                  kaoken_loop.barrier %team
                                                  kaoken_loop.lap %timers {timer = 3, waited}

Each thread has a clock of its own: a lap adds the time since the lap before to a timer. So all of
a call's time is in some timer, and what it waits for other threads is told apart. Equal layers,
which are calls of one function, share timers. The module says what each timer is for: the kernel,
the function that calls it, the op, and what `annotate-cost` wrote on that.

It comes last, after `plan-memory`, and only where it was asked for: `profile`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    ModuleOp,
    StringAttr,
)
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint

from kaoken.backend.interface import TIMERS
from kaoken.dialect.kaoken_loop import BarrierOp, LapOp, TimersType
from kaoken.passes.annotate_cost import COST, AnnotateCostPass
from kaoken.passes.plan_memory import PlanMemoryPass


@dataclass(frozen=True)
class InstrumentPass(ModulePass):
    """Put a timer around each call of a kernel."""

    name = "instrument"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if TIMERS in op.attributes:
            return
        AnnotateCostPass().apply(ctx, op)
        PlanMemoryPass().apply(ctx, op)
        functions = {f.sym_name.data: f for f in op.ops if isinstance(f, func.FuncOp)}
        callers = {name: calls for name, f in functions.items() if (calls := _calls(f))}
        instrumented = _Timers()
        for name, calls in callers.items():
            clock = _add_timers(functions[name])
            for call in calls:
                if call.callee.root_reference.data in callers:
                    call.operands = [*call.operands, clock]
                else:
                    instrumented.add(call, name, clock)
        op.attributes[TIMERS] = ArrayAttr(instrumented.descriptions)


@dataclass
class _Timers:
    """The timers so far, as the module describes them."""

    descriptions: list[DictionaryAttr] = field(default_factory=list)

    def add(self, call: func.CallOp, caller: str, clock: SSAValue) -> None:
        number = len(self.descriptions)
        cost = call.attributes.pop(COST, None)
        known = dict(cost.data) if isinstance(cost, DictionaryAttr) else {}
        names = {"kernel": call.callee.root_reference.data, "caller": caller}
        texts = {key: StringAttr(text) for key, text in names.items()}
        self.descriptions.append(DictionaryAttr(texts | known))
        barrier = call.next_op
        if isinstance(barrier, BarrierOp):
            Builder(InsertPoint.after(barrier)).insert(LapOp(clock, number, waited=True))
        Builder(InsertPoint.after(call)).insert(LapOp(clock, number))


def _calls(function: func.FuncOp) -> list[func.CallOp]:
    return [op for op in function.walk() if isinstance(op, func.CallOp)]


def _add_timers(function: func.FuncOp) -> SSAValue:
    """One more argument of a function: the thread's timers."""
    clock = function.body.block.insert_arg(TimersType(), len(function.args))
    clock.name_hint = "timers"
    attributes = function.arg_attrs.data if function.arg_attrs is not None else ()
    if attributes:
        function.arg_attrs = ArrayAttr([*attributes, DictionaryAttr({})])
    types = function.function_type
    function.function_type = FunctionType.from_lists(
        [*types.inputs.data, TimersType()], list(types.outputs.data)
    )
    return clock

"""`unroll`: mark loops for the C compiler to unroll, as the schedule's `unroll(loop, F)` says.

    affine.for %k = 0 to 384 {        affine.for %k = 0 to 384 {
      ...                       ->      ...
    }                                 } {kaoken_loop.unroll = 4 : i64}

The printer writes `#pragma GCC unroll 4` above the loop. What was turned into vectors before has
no loop any more: the printer unrolls registers by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Operation
from xdsl.passes import ModulePass

from kaoken.dialect import kaoken_loop
from kaoken.dialect.attributes import ScheduleAttr
from kaoken.passes.loops import loops_named, scheduled_functions
from kaoken.passes.strict import settle
from kaoken.passes.vectorize import VectorizePass


@dataclass(frozen=True)
class UnrollPass(ModulePass):
    """Mark loops by the `unroll` directives of each kernel."""

    name = "unroll"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if not any(map(_asks, op.walk())):
            return
        VectorizePass().apply(ctx, op)
        for function, schedule in scheduled_functions(op):
            for directive in schedule.all("unroll"):
                name, factor = directive.args
                assert isinstance(factor, int)
                loops = loops_named(function, str(name))
                for loop in loops:
                    loop.attributes[kaoken_loop.UNROLL] = IntegerAttr(factor, i64)
                settle(function, directive, [None] * len(loops))


def _asks(op: Operation) -> bool:
    """Whether an op or kernel has a schedule that unrolls something."""
    attributes = (*op.attributes.values(), *op.properties.values())
    return any(isinstance(a, ScheduleAttr) and a.all("unroll") for a in attributes)

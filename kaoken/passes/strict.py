"""Directives that must be obeyed: the loop passes refuse what they would else pass over.

A schedule that `choose-schedule` writes is a wish: what cannot be done to a nest is left. A person
who asks for something wants to be told. So a kernel may carry `kaoken.strict`, those directives of
its schedule that are still to be obeyed; each pass takes off what it has done, in at least one
nest of the kernel, and raises DirectiveRefused for what it cannot do. On an op, the attribute
`kaoken.strict` (a unit) makes all of its schedule so:

    %y = kaoken.relu %x {schedule = #kaoken.schedule<tile(h, 64), vectorize(h_in)>, kaoken.strict}
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import affine, func
from xdsl.dialects.builtin import UnitAttr
from xdsl.ir import Operation

from kaoken.dialect.attributes import Directive, ScheduleAttr
from kaoken.dialect.nn import AttentionOp, LinearOp
from kaoken.errors import KaokenError
from kaoken.passes.loops import is_reduction, loop_name, loops_named

STRICT = "kaoken.strict"


class DirectiveRefused(KaokenError):
    """A directive that cannot be obeyed, and why."""

    def __init__(self, function: func.FuncOp, directive: Directive, reason: str):
        super().__init__(f"the schedule of {function.sym_name.data}: {directive}: {reason}")
        self.directive = directive
        self.reason = reason


def demand(function: func.FuncOp, directives: ScheduleAttr) -> None:
    """Make a kernel insist on these directives of its schedule."""
    function.attributes[STRICT] = directives


def demanded_of(op: Operation, schedule: ScheduleAttr | None) -> ScheduleAttr | None:
    """What an op's kernel is to insist on."""
    if schedule is None or not isinstance(op.attributes.get(STRICT), UnitAttr):
        return None
    return left_to_loops(op, schedule)


def left_to_loops(op: Operation, directives: ScheduleAttr) -> ScheduleAttr:
    """The directives that loop passes obey, not `bake` or the lowering of the op."""

    def is_done(d: Directive) -> bool:
        if d.name == "tile":
            is_blocked = isinstance(op, LinearOp) and op.format is not None
            return (is_blocked or isinstance(op, AttentionOp)) and d.args[0] == "i"
        return d.name in ("panel", "literal", "skip", "lookup")

    return ScheduleAttr(tuple(d for d in directives.data if not is_done(d)))


def settle(function: func.FuncOp, directive: Directive, outcomes: Sequence[str | None]) -> None:
    """Say what became of a directive: for each loop that it names None, or why it was left.

    Raises DirectiveRefused when the kernel insists on it and nothing was done.
    """
    strict = function.attributes.get(STRICT)
    if not isinstance(strict, ScheduleAttr) or directive not in strict.data:
        return
    if None not in outcomes:
        reason = next(iter(outcomes), None) or no_loop(function, str(directive.args[0]))
        raise DirectiveRefused(function, directive, reason)
    rest = tuple(d for d in strict.data if d != directive)
    function.attributes[STRICT] = ScheduleAttr(rest)


def no_loop(function: func.FuncOp, name: str) -> str:
    """That there is no such loop, and which ones there are."""
    loops = [op for op in function.walk() if isinstance(op, affine.ForOp)]
    names = [name for name in dict.fromkeys(map(loop_name, loops)) if name]
    has = f"the loops are {', '.join(names)}" if names else "no loop is left"
    return f"there is no loop {name} at this point; {has}"


def kind_of(function: func.FuncOp, name: str) -> str:
    """`the reduction k`, or `the loop m`."""
    loops = loops_named(function, name)
    return f"the {'reduction' if loops and all(map(is_reduction, loops)) else 'loop'} {name}"

"""Whether an op's loops can be rewritten as a schedule says: it is tried on a module of that op.

The loop passes themselves are the judges, so what is refused here is what they cannot do. The
weights of the trial are zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import DictionaryAttr, ModuleOp, StringAttr

from kaoken.analysis.constants import is_constant
from kaoken.analysis.shapes import Shapes
from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import Directive, ScheduleAttr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.nn import AttentionOp, LinearOp
from kaoken.errors import KaokenError
from kaoken.passes.choose_schedule import TARGET, numbers_of_step
from kaoken.passes.lower_to_loops import LowerToLoopsPass
from kaoken.passes.parallelize import ParallelizePass
from kaoken.passes.strict import DirectiveRefused, demand, left_to_loops
from kaoken.schedule.alone import module_of
from kaoken.schedule.facts import Part


@dataclass(frozen=True)
class Refusal:
    """A directive that cannot be obeyed (None where that is not the cause), and why."""

    directive: Directive | None
    reason: str


class Judge:
    """Tries schedules on ops; equal questions are answered once."""

    def __init__(self, context: Context, machine: TargetMachine):
        self._context = context
        self._machine = machine
        self._known: dict[object, Refusal | None] = {}

    def refusal(
        self, part: Part, schedule: ScheduleAttr, must: ScheduleAttr, shapes: Shapes
    ) -> Refusal | None:
        """The first of the directives in `must` that the op's loops refuse."""
        question = (_signature(part, shapes), schedule, must)
        if question not in self._known:
            self._known[question] = self._judge(part, schedule, must, shapes)
        return self._known[question]

    def _judge(
        self, part: Part, schedule: ScheduleAttr, must: ScheduleAttr, shapes: Shapes
    ) -> Refusal | None:
        for directive in must.data:
            if directive.name in _CHECKS:
                reason = _CHECKS[directive.name](part, directive, self._machine)
                if reason is not None:
                    return Refusal(directive, reason)
        try:
            self._lower(module_of(part, [schedule], shapes), part, schedule, must)
        except DirectiveRefused as refused:
            return Refusal(refused.directive, refused.reason)
        except KaokenError as error:
            return Refusal(None, str(error))
        return None

    def _lower(
        self, module: ModuleOp, part: Part, schedule: ScheduleAttr, must: ScheduleAttr
    ) -> None:
        module.attributes[TARGET] = StringAttr(self._machine.text)
        LowerToLoopsPass().apply(self._context, module)
        for function in module.ops:
            if function.attributes.get("kaoken.schedule") == schedule:
                assert isinstance(function, func.FuncOp)
                demand(function, left_to_loops(part.op, must))
        ParallelizePass(threads=2).apply(self._context, module)


def _signature(part: Part, shapes: Shapes) -> object:
    op = part.op
    operands = tuple((v.type, shapes.get(v), is_constant(v)) for v in op.operands)
    properties = {k: v for k, v in op.properties.items() if k != "schedule"}
    return (part.name, operands, DictionaryAttr(properties))


# What bake and the lowering of the op do


def _panel(part: Part, directive: Directive, machine: TargetMachine) -> str | None:
    op, (width,) = part.op, directive.args
    if part.is_norm or not isinstance(op, LinearOp | AttentionOp):
        return f"{part.name} has no panels: linear and attention have"
    lanes = machine.lanes(32)
    assert isinstance(width, int)
    if width % lanes and not (isinstance(op, LinearOp) and width >= op.n):
        return (
            f"{width} is no multiple of the {lanes} floats of a register of {machine.name}, "
            "so that the last register of every panel would be partly empty"
        )
    if not isinstance(op, LinearOp):
        return None
    if op.is_packed:
        packed = tensor_type(op.weight).get_shape()[2]
        return None if packed == width else f"the weight is packed in panels of {packed} already"
    if not is_constant(op.weight):
        return "the weight is an argument of the function: apply schedules before outline"
    return None


def _literal(part: Part, directive: Directive, machine: TargetMachine) -> str | None:
    if part.is_norm or not isinstance(part.op, LinearOp):
        return f"{part.name} has no weights to write into the code: linear has"
    if part.op.is_packed or not is_constant(part.op.weight):
        return "the weight is packed or an argument already: apply schedules before bake"
    return None


def _skip(part: Part, directive: Directive, machine: TargetMachine) -> str | None:
    op = part.op
    if part.is_norm or not isinstance(op, LinearOp):
        return f"{part.name} has no weights to pass over: linear has"
    if directive.args[0] != "k":
        return "only steps of the reduction k can be passed over"
    if numbers_of_step(op) is None:
        return "zeros are passed over among inputs of f32, an even number, and before few bits"
    return None


def _lookup(part: Part, directive: Directive, machine: TargetMachine) -> str | None:
    op = part.op
    if part.is_norm or not isinstance(op, LinearOp) or directive.args[0] != "k":
        return "only the products of a linear layer's reduction k can be looked up"
    if op.format is None or op.format.data.bits not in (1, 2):
        return "products are looked up for weights of 1 and 2 bits"
    return None


_CHECKS: dict[str, Callable[[Part, Directive, TargetMachine], str | None]] = {
    "panel": _panel,
    "literal": _literal,
    "skip": _skip,
    "lookup": _lookup,
}

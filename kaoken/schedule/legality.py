"""Whether an op's loops can be rewritten as a schedule says: it is tried on a module of that op.

The loop passes themselves are the judges, so what is refused here is what they cannot do. The
weights of the trial are zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    i64,
)
from xdsl.ir import Attribute, Block, Region, SSAValue

from kaoken.analysis.constants import is_constant, is_stored
from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import Directive, ScheduleAttr, Shape, ShapeAttr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.nn import AttentionOp, LinearOp, WeightOp
from kaoken.dtypes import numpy_dtype
from kaoken.errors import KaokenError
from kaoken.passes.choose_schedule import TARGET
from kaoken.passes.lower_to_loops import MAX, LowerToLoopsPass, declared_maxima
from kaoken.passes.parallelize import ParallelizePass
from kaoken.passes.strict import DirectiveRefused, demand, left_to_loops
from kaoken.schedule.facts import Part
from kaoken.weights import WeightStore, attach_store

Shapes = dict[SSAValue, Shape]
_SOME_SIZE = 512
_PLAIN = ScheduleAttr((Directive("parallel", ("m",)),))


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
            self._lower(_module_of(part, schedule, shapes), part, schedule, must)
        except DirectiveRefused as refused:
            return Refusal(refused.directive, refused.reason)
        except KaokenError as error:
            return Refusal(None, str(error))
        return None

    def _lower(
        self, module: ModuleOp, part: Part, schedule: ScheduleAttr, must: ScheduleAttr
    ) -> None:
        module.attributes[TARGET] = StringAttr(self._machine.name)
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


def _module_of(part: Part, schedule: ScheduleAttr, shapes: Shapes) -> ModuleOp:
    """A module whose @main is the op alone."""
    op, block, store = part.op, Block(), WeightStore()
    values: dict[SSAValue, SSAValue] = {}
    for value in dict.fromkeys(op.operands):
        values[value] = (
            _weight(value, block, store)
            if is_constant(value)
            else block.insert_arg(value.type, len(block.args))
        )
    copy = op.clone(values)
    trial = Part(copy, part.is_norm)
    if part.is_norm:
        Part(copy).schedule = _PLAIN
    trial.schedule = schedule
    block.add_ops([copy, func.ReturnOp(copy.results[0])])
    outer = op.parent_op()
    maxima = declared_maxima(outer) if isinstance(outer, func.FuncOp) else {}
    arguments = [v for v in values if v in shapes and not is_constant(v)]
    module = ModuleOp([_main(block, [shapes[v] for v in arguments], maxima)])
    attach_store(module, store)
    return module


def _weight(value: SSAValue, block: Block, store: WeightStore) -> SSAValue:
    if is_stored(value) and not isinstance(value.owner, WeightOp):
        constant = value.owner.clone()  # pyright: ignore[reportAttributeAccessIssue]
        block.add_op(constant)
        return constant.results[0]
    type_ = tensor_type(value)
    key = store.add(
        f"w{len(list(store.keys()))}",
        np.zeros(type_.get_shape(), numpy_dtype(type_.element_type)),
    )
    weight = WeightOp(key, type_)
    block.add_op(weight)
    return weight.result


def _main(block: Block, shapes: list[Shape], maxima: dict[str, int]) -> func.FuncOp:
    used = {s for shape in shapes for dim in shape for s in dim.symbols}
    attributes: list[dict[str, Attribute]] = [{"kaoken.shape": ShapeAttr(s)} for s in shapes]
    result = block.last_op
    assert result is not None
    main = func.FuncOp(
        "main",
        FunctionType.from_lists(block.arg_types, [v.type for v in result.operands]),
        Region(block),
        arg_attrs=ArrayAttr([DictionaryAttr(a) for a in attributes]),
    )
    sizes = {name: _SOME_SIZE for name in sorted(used - set(maxima))} | maxima
    main.attributes[MAX] = DictionaryAttr({k: IntegerAttr(v, i64) for k, v in sizes.items()})
    return main


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


_CHECKS: dict[str, Callable[[Part, Directive, TargetMachine], str | None]] = {
    "panel": _panel,
    "literal": _literal,
}

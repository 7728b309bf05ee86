"""Writing a schedule on the ops of a module."""

from __future__ import annotations

import logging

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp

from kaoken.analysis.shapes import symbolic_shapes
from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import ScheduleAttr
from kaoken.errors import KaokenError
from kaoken.schedule.facts import Part, applies, facts_of, fits, parts_of
from kaoken.schedule.language import Instance, Rule, Schedule, instantiate, machine_numbers
from kaoken.schedule.legality import Judge, Refusal, Shapes

_log = logging.getLogger("kaoken.schedule")


def apply_schedule(
    module: ModuleOp, schedule: Schedule, machine: TargetMachine, context: Context
) -> None:
    """Give each op the directives of the last rule that fits it, in place of what it had.

    A rule that fits no op is worth a warning. Raises ScheduleError for a directive that the loops
    of an op refuse, and KaokenError when no rule fits any op.
    """
    parts = list(parts_of(module))
    rules = [rule for rule in schedule.rules if applies(rule, machine)]
    if not parts or not rules:
        return
    writer = _Writer(module, schedule, machine, context)
    fitting: set[int] = set()
    for part in parts:
        chosen = [i for i, rule in enumerate(rules) if fits(rule, part, writer.numbers)]
        fitting.update(chosen)
        if chosen:
            writer.write(part, rules[chosen[-1]])
    _report(schedule, [r for i, r in enumerate(rules) if i not in fitting], parts, bool(fitting))


def _report(schedule: Schedule, unused: list[Rule], parts: list[Part], is_used: bool) -> None:
    if not unused:
        return
    rule, has = unused[0], ", ".join(dict.fromkeys(map(describe, parts)))
    message = f"no op is a '{rule.text}'; the model has {has}"
    if not is_used:
        raise schedule.source.error(rule.place, message)
    for rule in unused:
        place = f"{schedule.source.name}:{rule.place.line}"
        _log.warning("%s: no op is a '%s'; the model has %s", place, rule.text, has)


def describe(part: Part) -> str:
    """A part as a rule would name it: `linear k=384 n=1152`."""
    facts = facts_of(part)
    sizes = [f"{key}={facts[key]}" for key in ("k", "n") if key in facts]
    return " ".join([part.name, *sizes])


class _Writer:
    """Checks a rule's directives against each op before it writes them."""

    def __init__(
        self, module: ModuleOp, schedule: Schedule, machine: TargetMachine, context: Context
    ):
        self.source = schedule.source
        self.numbers = machine_numbers(machine)
        self._judge = Judge(context, machine)
        self._instances: dict[int, Instance] = {}
        self._shapes: dict[func.FuncOp, Shapes] = {}

    def write(self, part: Part, rule: Rule) -> None:
        """Raises ScheduleError."""
        instance = self._instance(rule)
        refusal = self._judge.refusal(
            part, instance.attribute, instance.must, self._shapes_around(part)
        )
        if refusal is not None:
            raise self._error(part, rule, instance, refusal)
        part.schedule = instance.attribute

    def _instance(self, rule: Rule) -> Instance:
        if id(rule) not in self._instances:
            self._instances[id(rule)] = instantiate(rule, self.source, self.numbers)
        return self._instances[id(rule)]

    def _shapes_around(self, part: Part) -> Shapes:
        return shapes_around(part, self._shapes)

    def _error(self, part: Part, rule: Rule, instance: Instance, refusal: Refusal) -> KaokenError:
        step = instance.steps.get(refusal.directive) if refusal.directive is not None else None
        if step is None:
            return self.source.error(rule.place, f"for {describe(part)}: {refusal.reason}")
        text = f"{refusal.directive} for {describe(part)}: {refusal.reason}"
        return self.source.error(step.place, text)


def shapes_around(part: Part, known: dict[func.FuncOp, Shapes]) -> Shapes:
    """The symbolic shapes of the function that an op stands in."""
    function = part.op.parent_op()
    if not isinstance(function, func.FuncOp):
        raise KaokenError(f"{part.op.name} stands in no function: schedules are for functions")
    if function not in known:
        known[function] = symbolic_shapes(function)
    return known[function]


def schedules_of(module: ModuleOp) -> list[tuple[Part, ScheduleAttr]]:
    """All parts of a module that have a schedule."""
    found = [(part, part.schedule) for part in parts_of(module)]
    return [(part, schedule) for part, schedule in found if schedule is not None]

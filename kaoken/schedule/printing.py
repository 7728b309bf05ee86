"""The schedules of a module as a file that `apply-schedule` reads back to the same schedules.

Ops of one name that are scheduled alike share a rule; others are told apart by their sizes, then
by their attributes, their weights, and at last their place. A directive that the op's loops refuse,
which `choose-schedule` passes over in silence, is printed with the word `try`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp, StringAttr

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import Directive, ScheduleAttr
from kaoken.schedule.apply import shapes_around
from kaoken.schedule.facts import WORDS, Part, facts_of, parts_of, weight_names
from kaoken.schedule.legality import Judge, Shapes


def print_schedules(module: ModuleOp, machine: TargetMachine, context: Context) -> str:
    """A schedule file with the schedules that the ops of a module carry for a machine."""
    judge, shapes = Judge(context, machine), {}
    rules = [_rule(head, group, judge, shapes) for head, group in _groups(module)]
    return "\n".join([_header(module, machine), *rules])


def _header(module: ModuleOp, machine: TargetMachine) -> str:
    name = module.attributes.get("kaoken.name")
    model = f" of {name.data}" if isinstance(name, StringAttr) else ""
    return f"# Schedules{model} for {machine.name}. The last rule that fits an op counts.\n"


def _groups(module: ModuleOp) -> Iterable[tuple[str, list[Part]]]:
    """What to print before the brace, and the parts that are scheduled so."""
    named = sorted(parts_of(module), key=lambda part: part.name)
    for name, parts in groupby(named, key=lambda part: part.name):
        for words, group in _split(list(parts)).items():
            if group[0].schedule is not None:
                yield f"{name} {words}".rstrip(), group


def _split(parts: list[Part]) -> dict[str, list[Part]]:
    """The parts of one name in groups of one schedule each, by as few words as will do."""
    for words in (_sizes, _attributes, _weights, _places):
        groups: dict[str, list[Part]] = {}
        for part in parts:
            groups.setdefault(words(part), []).append(part)
        if all(len({part.schedule for part in group}) == 1 for group in groups.values()):
            return groups
    raise AssertionError


def _facts(part: Part, keys: Iterable[str]) -> str:
    facts = facts_of(part)
    return " ".join(f"{key}={facts[key]}" for key in keys if key in facts)


def _sizes(part: Part) -> str:
    return _facts(part, ("k", "n", "heads", "head_size"))


def _attributes(part: Part) -> str:
    return _facts(part, ("k", "m", "n", "heads", "head_size", *WORDS))


def _weights(part: Part) -> str:
    names = weight_names(part)
    pattern = f'"{names[0]}" ' if names and not any(c in names[0] for c in '*?["') else ""
    return pattern + _attributes(part)


def _places(part: Part) -> str:
    return _facts(part, ("nth",))


def _rule(head: str, group: list[Part], judge: Judge, shapes: dict[func.FuncOp, Shapes]) -> str:
    schedule = group[0].schedule
    assert schedule is not None
    refused: set[Directive] = set()
    for part in group:
        refused |= refused_directives(part, schedule, judge, shapes_around(part, shapes))
    lines = [f"    {'try ' if d in refused else ''}{d}\n" for d in schedule.data]
    return f"{head} {{\n{''.join(lines)}}}\n"


def refused_directives(
    part: Part, schedule: ScheduleAttr, judge: Judge, shapes: Shapes
) -> set[Directive]:
    """All directives that the loops of an op refuse."""
    refused: set[Directive] = set()
    while len(refused) < len(schedule.data):
        must = ScheduleAttr(tuple(d for d in schedule.data if d not in refused))
        refusal = judge.refusal(part, schedule, must, shapes)
        if refusal is None or refusal.directive is None:
            break
        refused.add(refusal.directive)
    return refused

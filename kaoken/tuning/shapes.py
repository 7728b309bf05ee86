"""The distinct op shapes of a model: what rules of a schedule file can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp

from kaoken.analysis.cost import cost_of
from kaoken.analysis.shapes import Shapes, declared_maxima
from kaoken.dialect.attributes import Directive, ScheduleAttr
from kaoken.dialect.nn import AttentionOp, LinearOp, MatmulOp
from kaoken.schedule.apply import shapes_around
from kaoken.schedule.facts import WORDS, Part, facts_of, parts_of
from kaoken.schedule.language import OPEN
from kaoken.schedule.legality import Judge
from kaoken.schedule.printing import refused_directives

_BATCH = "batch"
_DEFAULT_WORDS = ("none",)
_PRODUCTS = (LinearOp, MatmulOp, AttentionOp)


@dataclass(frozen=True)
class OpShape:
    """All parts of a model that one rule fits, and the schedule that kaoken chose for them."""

    head: str
    """What stands before the rule's brace: `linear k=384 n=1536 activation=gelu dtype=f32`."""
    parts: Sequence[Part]
    shapes: Shapes
    """Of the function that the first part stands in."""
    default: ScheduleAttr
    wishes: frozenset[Directive]
    """The directives of the default that the loops refuse."""

    @property
    def part(self) -> Part:
        return self.parts[0]

    @property
    def is_product(self) -> bool:
        """Whether it is a matrix product or made of them."""
        return not self.part.is_norm and isinstance(self.part.op, _PRODUCTS)

    def sizes(self, tokens: int) -> dict[str, int]:
        """Open sizes for a trial: one text, and as many tokens as the model may have at most."""
        outer = self.part.op.parent_op()
        maxima = declared_maxima(outer) if isinstance(outer, func.FuncOp) else {}
        used = {s for shape in self.shapes.values() for dim in shape for s in dim.symbols}
        limits = dict.fromkeys(sorted(used), tokens) | maxima
        return {n: 1 if n == _BATCH else min(tokens, limit) for n, limit in limits.items()}

    def refusal(self, schedule: ScheduleAttr, judge: Judge) -> str | None:
        """Why some op of the shape cannot be scheduled so, if it cannot."""
        must = ScheduleAttr(tuple(d for d in schedule.data if d not in self.wishes))
        for part in self.parts:
            shapes = shapes_around(part, {})
            if (refusal := judge.refusal(part, schedule, must, shapes)) is not None:
                return refusal.reason
        return None


def op_shapes(module: ModuleOp, judge: Judge) -> list[OpShape]:
    """The shapes whose ops are all scheduled alike: linear layers, attention, then the rest.

    What only moves numbers is left out.
    """
    known: dict[func.FuncOp, Shapes] = {}
    groups: dict[str, list[Part]] = {}
    for part in parts_of(module):
        if cost_of(part.op, shapes_around(part, known)).flops.terms:
            groups.setdefault(head_of(part), []).append(part)
    found: list[OpShape] = []
    for head, parts in groups.items():
        default = parts[0].schedule
        if default is None or any(part.schedule != default for part in parts):
            continue
        shapes = shapes_around(parts[0], known)
        wishes = refused_directives(parts[0], default, judge, shapes)
        found.append(OpShape(head, parts, shapes, default, frozenset(wishes)))
    return sorted(found, key=_rank)


def _rank(shape: OpShape) -> int:
    if not shape.is_product:
        return len(_PRODUCTS)
    return [isinstance(shape.part.op, kind) for kind in _PRODUCTS].index(True)


def head_of(part: Part) -> str:
    """The op's name and all facts about it: sizes that are known, attributes that say something."""
    facts = facts_of(part)
    sizes = [key for key in ("m", "k", "n", "heads", "head_size") if facts.get(key, OPEN) != OPEN]
    words = [key for key in WORDS if facts.get(key, "none") not in _DEFAULT_WORDS]
    return " ".join([part.name, *(f"{key}={facts[key]}" for key in (*sizes, *words))])

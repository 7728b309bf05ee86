"""What a schedule file says: rules, each of which gives the ops that it fits a list of directives.

    let rows = 6
    linear "encoder.*" k=768 n>=1024 when avx512 and registers >= 32 {
        panel(4 * lanes)
        tile(m, rows)
    }

A rule fits an op by name, by the names of its weights, and by tests of its sizes and attributes;
`when` asks about the target. Of several rules that fit, the last one counts, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

from kaoken.backend.machine import TargetMachine
from kaoken.dialect.attributes import Directive, ScheduleAttr
from kaoken.errors import MarkedError

LOOP, SIZE, LOOPS = "loop", "size", "loops"
DIRECTIVES: dict[str, tuple[str, ...]] = {
    "panel": (SIZE,),
    "tile": (LOOP, SIZE),
    "order": (LOOPS,),
    "tensorize": (LOOP, LOOP, LOOP),
    "vectorize": (LOOPS,),
    "prefetch": (LOOP, SIZE),
    "unroll": (LOOP, SIZE),
    "skip": (LOOP,),
    "lookup": (LOOP,),
    "parallel": (LOOP,),
    "literal": (),
}
"""The arguments of each directive; `loops` is one loop or more."""

OPEN = "open"
"""What a size is that is known only at run time."""
ANY_OP = "*"
COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
Fact = int | str


class ScheduleError(MarkedError):
    """What is wrong with a schedule: where, why, and the line with a mark below the place."""


@dataclass(frozen=True)
class Place:
    """Where something stands: line and column from 1, and how many characters it has."""

    line: int
    column: int
    width: int = 1


@dataclass(frozen=True)
class Source:
    """A schedule's text, and what to call it."""

    name: str
    text: str

    def error(self, place: Place, message: str) -> ScheduleError:
        """`file:line:column: message`, the line, and a caret below the place."""
        lines = [*self.text.splitlines(), ""]
        line = lines[min(place.line, len(lines)) - 1]
        before = line[: place.column - 1]
        blank = "".join(c if c == "\t" else " " for c in before)
        mark = "^" * max(1, min(place.width, len(line) - len(before)))
        head = f"{self.name}:{place.line}:{place.column}: {message}"
        return ScheduleError(f"{head}\n    {line}\n    {blank}{mark}")


def machine_numbers(machine: TargetMachine) -> dict[str, int]:
    """What a schedule may ask and use of a target; sizes in bytes, lanes in float32."""
    return {
        "lanes": machine.lanes(32),
        "vector": machine.vector_bytes,
        "registers": machine.vector_registers,
        "l1": machine.l1_bytes,
        "l2": machine.l2_bytes,
        "l3": machine.l3_bytes,
    }


MACHINE_NUMBERS = ("lanes", "vector", "registers", "l1", "l2", "l3")


@dataclass(frozen=True)
class Product:
    """Numbers and names of machine numbers, multiplied; or a single other name."""

    factors: tuple[int | str, ...]
    place: Place

    @property
    def name(self) -> str | None:
        """The name that this is alone, if it is one."""
        (first, *rest) = self.factors
        return first if isinstance(first, str) and not rest else None

    @property
    def is_known(self) -> bool:
        """Whether no number of the machine is in it."""
        return all(isinstance(f, int) for f in self.factors)

    @property
    def unknown(self) -> str | None:
        """A factor that is no number."""
        names = (f for f in self.factors if isinstance(f, str) and f not in MACHINE_NUMBERS)
        return next(names, None)

    def value(self, numbers: Mapping[str, int]) -> int:
        """The number, given those of the machine."""
        return prod(f if isinstance(f, int) else numbers[f] for f in self.factors)


@dataclass(frozen=True)
class Comparison:
    """`n >= 1024`, `m = open`, `activation = gelu`."""

    key: str
    comparison: str
    expected: Product

    def holds(self, facts: Mapping[str, Fact], numbers: Mapping[str, int]) -> bool:
        """False for an op that has no such fact."""
        fact = facts.get(self.key)
        if fact is None:
            return False
        if self.expected.unknown is None:
            wanted = self.expected.value(numbers)
            if isinstance(fact, int):
                return COMPARISONS[self.comparison](fact, wanted)
            return self.comparison == "!="
        return (fact == self.expected.name) == (self.comparison == "=")


Condition = Callable[[frozenset[str], Mapping[str, int]], bool]
"""Whether something holds for a target of these features and numbers."""


@dataclass(frozen=True)
class Step:
    """One directive as it was written. One to `try` may turn out to be impossible."""

    name: str
    arguments: tuple[Product, ...]
    is_try: bool
    place: Place


@dataclass(frozen=True)
class Rule:
    """A schedule, and the ops that it is for."""

    op: str
    pattern: str | None
    tests: tuple[Comparison, ...]
    condition: Condition | None
    steps: tuple[Step, ...]
    place: Place
    text: str
    """What stands before the brace."""


@dataclass(frozen=True)
class Schedule:
    """A whole file."""

    source: Source
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Instance:
    """A rule's directives for one machine, with the step that each comes from."""

    attribute: ScheduleAttr
    steps: dict[Directive, Step] = field(compare=False)

    @property
    def must(self) -> ScheduleAttr:
        """The directives that are to be obeyed or refused."""
        kept = (d for d in self.attribute.data if not self.steps[d].is_try)
        return ScheduleAttr(tuple(kept))


def instantiate(rule: Rule, source: Source, numbers: Mapping[str, int]) -> Instance:
    """The directives of a rule for a machine; ScheduleError for a size below 1."""
    steps: dict[Directive, Step] = {}
    directives: list[Directive] = []
    for step in rule.steps:
        directives.append(_directive(step, source, numbers))
        steps.setdefault(directives[-1], step)
    return Instance(ScheduleAttr(tuple(directives)), steps)


def _directive(step: Step, source: Source, numbers: Mapping[str, int]) -> Directive:
    arguments: list[str | int] = []
    for product, kind in zip(step.arguments, kinds_of(step.name, step.arguments), strict=True):
        if kind == LOOP:
            assert product.name is not None
            arguments.append(product.name)
            continue
        arguments.append(size := product.value(numbers))
        if size < 1:
            raise source.error(product.place, "a size must be at least 1: it is 0 on this target")
    return Directive(step.name, tuple(arguments))


def kinds_of(name: str, arguments: tuple[Product, ...]) -> tuple[str, ...]:
    """What each argument of a directive must be."""
    signature = DIRECTIVES[name]
    return (LOOP,) * len(arguments) if signature == (LOOPS,) else signature

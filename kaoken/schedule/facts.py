"""What rules may ask of ops (sizes, attributes, names of weights) and of targets (features)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from kaoken.analysis.constants import is_constant
from kaoken.backend.machine import TargetMachine
from kaoken.backend.targets import all_targets
from kaoken.dialect.attributes import (
    Activation,
    Approximation,
    Function,
    Norm,
    Reduction,
    ScheduleAttr,
)
from kaoken.dialect.base import KaokenOp, element_type_of, tensor_type
from kaoken.dialect.decoder import CacheAppendOp, CacheOp
from kaoken.dialect.dims import DYNAMIC
from kaoken.dialect.nn import AttentionOp, LinearOp, MatmulOp, WeightOp
from kaoken.dialect.tensor import ReshapeOp
from kaoken.schedule.language import ANY_OP, OPEN, Fact, Rule, machine_numbers

PREFIX = "kaoken."
NORM_PART = "linear.norm"
"""The norm epilogue of a linear layer: a nest, and so a schedule, of its own."""

SIZES = ("m", "k", "n", "heads", "head_size", "nth")
"""The facts that are numbers, or `open`; nth counts the ops of one name from 0."""
WORDS: dict[str, tuple[str, ...]] = {
    "activation": tuple(Activation),
    "norm": tuple(Norm),
    "function": tuple(Function),
    "reduction": tuple(Reduction),
    "approximate": tuple(Approximation),
    "dtype": ("f32", "bf16", "f16", "f64", "ui8", "i8", "i32", "i64", "i1"),
}
"""The facts that are words, with the words."""

_NO_PARTS = (WeightOp, ReshapeOp, CacheOp, CacheAppendOp)

_ALIASES = {"avx512f": "avx512"}


@cache
def op_names() -> tuple[str, ...]:
    """The ops that have schedules, as rules name them."""
    from kaoken.dialect.kaoken import Kaoken

    ops = [op for op in Kaoken.operations if op not in _NO_PARTS]
    return tuple(sorted([*(op.name.removeprefix(PREFIX) for op in ops), NORM_PART]))


@dataclass(eq=False)
class Part:
    """What one schedule is for: an op, or the norm epilogue of a linear layer."""

    op: KaokenOp
    is_norm: bool = False
    number: int = 0
    """Which of the module's parts of its name it is, from 0."""

    @property
    def name(self) -> str:
        return NORM_PART if self.is_norm else self.op.name.removeprefix(PREFIX)

    @property
    def schedule(self) -> ScheduleAttr | None:
        key = "norm_schedule" if self.is_norm else "schedule"
        found = self.op.properties.get(key, self.op.attributes.get(key))
        return found if isinstance(found, ScheduleAttr) else None

    @schedule.setter
    def schedule(self, value: ScheduleAttr) -> None:
        if self.is_norm:
            self.op.attributes["norm_schedule"] = value
        elif isinstance(self.op, LinearOp | AttentionOp) or "schedule" in self.op.properties:
            self.op.properties["schedule"] = value
        else:
            self.op.attributes["schedule"] = value


def parts_of(module: ModuleOp) -> Iterator[Part]:
    """Everything that a module computes at run time and that may have a schedule."""
    numbers: Counter[str] = Counter()
    for op in module.walk():
        if not isinstance(op, KaokenOp) or isinstance(op, WeightOp | ReshapeOp):
            continue
        if is_constant(op.result) and op.operands:
            continue
        yield Part(op, number=numbers[op.name])
        numbers[op.name] += 1
        if isinstance(op, LinearOp) and op.norm.data is not Norm.NONE:
            yield Part(op, True, numbers[NORM_PART])
            numbers[NORM_PART] += 1


def facts_of(part: Part) -> dict[str, Fact]:
    """Sizes and attributes of an op; a size is a number or `open`.

    n is the last size of the result and m the product of those before; k is what is summed over.
    """
    op = part.op
    sizes = tensor_type(op.result).get_shape()
    facts: dict[str, Fact] = {
        "m": _product(sizes[:-1]),
        "n": _size(sizes[-1]) if sizes else 1,
        "nth": part.number,
    }
    if isinstance(op, LinearOp) and not part.is_norm:
        facts["k"] = op.k
    elif isinstance(op, MatmulOp):
        facts["k"] = _size(tensor_type(op.lhs).get_shape()[-1])
    elif isinstance(op, AttentionOp):
        facts["heads"] = op.heads
        facts["head_size"] = _size(tensor_type(op.query).get_shape()[-1] // op.heads)
    for key in WORDS:
        word = getattr(op.properties.get(key), "data", None)
        if isinstance(word, str):
            facts[key] = str(word)
    if op.operands:
        facts["dtype"] = str(element_type_of(op.operands[0]))
    return facts


def _size(size: int) -> Fact:
    return OPEN if size == DYNAMIC else size


def _product(sizes: tuple[int, ...]) -> Fact:
    total = 1
    for size in sizes:
        if size == DYNAMIC:
            return OPEN
        total *= size
    return total


def weight_names(part: Part) -> list[str]:
    """The keys of all weights that an op reads, also through what is computed of weights alone."""
    pending = [v for v in part.op.operands if is_constant(v)]
    names: dict[str, None] = {}
    seen: set[SSAValue] = set()
    while pending:
        value = pending.pop(0)
        if value in seen:
            continue
        seen.add(value)
        if isinstance(value.owner, WeightOp):
            names[value.owner.key.data] = None
        elif isinstance(value.owner, KaokenOp):
            pending.extend(value.owner.operands)
    return list(names)


def fits(rule: Rule, part: Part, numbers: dict[str, int]) -> bool:
    """Whether a rule is for an op, whatever the target."""
    if rule.op not in (ANY_OP, part.name):
        return False
    if rule.tests:
        facts = facts_of(part)
        if not all(test.holds(facts, numbers) for test in rule.tests):
            return False
    pattern = rule.pattern
    return pattern is None or any(fnmatchcase(name, pattern) for name in weight_names(part))


def applies(rule: Rule, machine: TargetMachine) -> bool:
    """Whether a rule is for a target."""
    condition = rule.condition
    return condition is None or condition(features_of(machine), machine_numbers(machine))


def features_of(machine: TargetMachine) -> frozenset[str]:
    """All names that hold for a machine: its target and those it contains, features, CPU flags."""
    own, flags = machine.description, set(machine.cpu_flags)
    contained = {
        t.name
        for t in all_targets().values()
        if t.cpu_flags and flags.issuperset(t.cpu_flags) and t.architecture == own.architecture
    }
    aliases = {alias for flag, alias in _ALIASES.items() if flag in flags}
    return frozenset({own.name, own.architecture, *contained, *machine.features, *flags, *aliases})


@cache
def known_features() -> frozenset[str]:
    """Every name that holds for some target."""
    names: set[str] = set(_ALIASES.values())
    for target in all_targets().values():
        names |= {target.name, target.architecture, *target.features, *target.cpu_flags}
        for feature in target.features.values():
            names |= set(feature.cpu_flags)
    return frozenset(names - {""})

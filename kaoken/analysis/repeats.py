"""Finding equal layers: runs of ops that repeat with a fixed period.

Two windows of ops are equal when their ops are (name, attributes, types, symbolic shapes) and their
operands are: a value from inside by its place, a value from outside by the order of first use,
a number by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import UnionType

from xdsl.dialects import arith
from xdsl.ir import Operation, SSAValue

from kaoken.dialect.attributes import Shape
from kaoken.dialect.tensor import FullOp

MIN_PERIOD = 4
"""Shorter sequences are not worth a function."""


@dataclass(frozen=True)
class Repeat:
    """`count` equal windows of `period` ops each, the first at position `start`."""

    start: int
    period: int
    count: int

    @property
    def gain(self) -> int:
        """How many ops vanish when the windows become one function."""
        return (self.count - 1) * self.period

    def windows(self, ops: Sequence[Operation]) -> list[Window]:
        starts = range(self.start, self.start + self.count * self.period, self.period)
        return [Window(tuple(ops[i : i + self.period])) for i in starts]


@dataclass(frozen=True)
class Window:
    """Consecutive ops of a block."""

    ops: tuple[Operation, ...]

    @cached_property
    def places(self) -> dict[SSAValue, tuple[int, int]]:
        """Values made inside: which op and which of its results."""
        return {v: (i, j) for i, op in enumerate(self.ops) for j, v in enumerate(op.results)}

    @cached_property
    def inputs(self) -> list[SSAValue]:
        """Values from outside, in order of first use; numbers are not among them."""
        used = (v for op in self.ops for v in op.operands)
        return list(dict.fromkeys(v for v in used if v not in self.places and not is_number(v)))

    @cached_property
    def numbers(self) -> list[SSAValue]:
        """Numbers from outside, which a function has copies of."""
        used = (v for op in self.ops for v in op.operands)
        return list(dict.fromkeys(v for v in used if v not in self.places and is_number(v)))

    def outputs(self) -> list[tuple[int, int]]:
        """The places of values that are used outside."""
        inside = set(self.ops)
        return [
            place
            for value, place in self.places.items()
            if any(use.operation not in inside for use in value.uses)
        ]

    def wiring(self) -> Hashable:
        """How the operands are connected, the same for windows that may share a function."""
        ordinals = {value: i for i, value in enumerate(self.inputs)}
        return tuple(
            self.places.get(v) or (number_key(v) if is_number(v) else ordinals[v])
            for op in self.ops
            for v in op.operands
        )


def is_number(value: SSAValue) -> bool:
    """Whether a value is written in the IR: a dense constant, or a full without dimensions."""
    owner = value.owner
    return isinstance(owner, arith.ConstantOp) or (
        isinstance(owner, FullOp) and not owner.shape.data
    )


def number_key(value: SSAValue) -> Hashable:
    owner = value.owner
    assert isinstance(owner, arith.ConstantOp | FullOp)
    return (type(owner), owner.value, value.type)


def best_repeat(
    ops: Sequence[Operation], kinds: Sequence[int], min_period: int = MIN_PERIOD
) -> Repeat | None:
    """The repeat that saves most ops; of equal ones the one with the fewest values in and out.

    `kinds` numbers the ops (see `op_kinds`), -1 for those that must not move.
    """
    best: Repeat | None = None
    best_interface = 0
    for period in range(min_period, len(ops) // 2 + 1):
        for start, length in _periodic_ranges(kinds, period):
            possible = Repeat(start, period, length // period)
            if possible.count < 2 or (best is not None and possible.gain < best.gain):
                continue
            if best is not None and possible.gain == best.gain and period > best.period:
                continue
            for repeat in _equal_windows(ops, start, length, period):
                interface = _interface(repeat.windows(ops)[0])
                if best is None or (repeat.gain, -interface) > (best.gain, -best_interface):
                    best, best_interface = repeat, interface
    return best


def _periodic_ranges(kinds: Sequence[int], period: int) -> Iterator[tuple[int, int]]:
    """Maximal ranges (start, length) in which kinds[i] is kinds[i + period]."""
    start = 0
    for i in range(len(kinds) - period + 1):
        ends = i == len(kinds) - period
        if not ends and kinds[i] == kinds[i + period] != -1:
            continue
        if i > start:
            yield start, i - start + period
        start = i + 1


def _equal_windows(
    ops: Sequence[Operation], start: int, length: int, period: int
) -> Iterator[Repeat]:
    """For each shift within a period, the longest runs of windows that are wired alike."""
    for shift in range(min(period, length - 2 * period + 1)):
        first = start + shift
        count = (length - shift) // period
        wirings = [w.wiring() for w in Repeat(first, period, count).windows(ops)]
        run = 0
        for i in range(1, count + 1):
            if i < count and wirings[i] == wirings[run]:
                continue
            if i - run > 1:
                yield Repeat(first + run * period, period, i - run)
            run = i


def _interface(window: Window) -> int:
    return len(window.inputs) + len(window.outputs())


def op_kinds(
    ops: Sequence[Operation],
    shapes: Mapping[SSAValue, Shape],
    movable: type[Operation] | UnionType,
) -> list[int]:
    """A number for each op, equal for ops that do the same to values of the same shapes."""
    numbers: dict[Hashable, int] = {}
    kinds: list[int] = []
    for op in ops:
        if not isinstance(op, movable | arith.ConstantOp):
            kinds.append(-1)
            continue
        values = (*op.operands, *op.results)
        key = (
            op.name,
            tuple(sorted(op.properties.items(), key=lambda item: item[0])),
            tuple(sorted(op.attributes.items(), key=lambda item: item[0])),
            tuple((v.type, shapes.get(v)) for v in values),
        )
        kinds.append(numbers.setdefault(key, len(numbers)))
    return kinds

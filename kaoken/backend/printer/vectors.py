"""Vector statements that are no nests of their own: assignment, parts, reductions to a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from xdsl.dialects import vector
from xdsl.dialects.builtin import DYNAMIC_INDEX
from xdsl.ir import SSAValue

from kaoken.backend.printer.function import FunctionPrinter
from kaoken.backend.printer.nests import NestPrinter, declare_storage, for_each_element
from kaoken.backend.printer.registers import Registers
from kaoken.backend.printer.text import binary, fill
from kaoken.backend.printer.tiles import Storage, TileNest, is_vector
from kaoken.backend.printer.types import c_name, element_type, short_name, vector_shape
from kaoken.errors import KaokenError

_LONGEST_TREE = 8
"""Registers that one expression may combine; more are combined by a loop."""

_KINDS = {
    "add": ("sum", "+", "0"),
    "maximumf": ("max_of", "max", "-INFINITY"),
    "maxnumf": ("max_of", "max", "-INFINITY"),
    "minimumf": ("min_of", "min", "INFINITY"),
    "minnumf": ("min_of", "min", "INFINITY"),
    "maxsi": ("max_of", "max", "INT32_MIN"),
    "minsi": ("min_of", "min", "INT32_MAX"),
    "mul": ("product_of", "*", "1"),
}
"""Kind of reduction: (entry of instruction tables, how two values combine, neutral element)."""


def declare_vector(p: FunctionPrinter, value: SSAValue) -> None:
    """Declare the variables of a vector that branches will assign."""
    declare_storage(p, p.placement.storage[value])


def assign_vector(p: FunctionPrinter, target: SSAValue, value: SSAValue) -> None:
    """Copy a vector into the variables of another, unless they share them."""
    storage = p.placement.storage[target]
    if p.placement.storage.get(value) is not storage:
        _assign(p, storage, value)


def _assign(p: FunctionPrinter, storage: Storage, value: SSAValue) -> None:
    declare_storage(p, storage)

    def emit(at: NestPrinter) -> None:
        p.line(f"{at.place(storage, storage.name)} = {at.operand(value, storage.is_register)};")

    for_each_element(p, storage, emit)


def assign_vectors(p: FunctionPrinter, pairs: Sequence[tuple[SSAValue, SSAValue]]) -> None:
    """All assignments of a yield at once: what one overwrites, another may still read."""
    places = p.placement.storage
    moves = [(places[t], v) for t, v in pairs if places.get(v) is not places[t]]
    targets = {storage for storage, _ in moves}
    held = {v: _hold(p, v) for _, v in moves if places.get(v) in targets}
    places |= held
    for storage, value in moves:
        _assign(p, storage, value)


def _hold(p: FunctionPrinter, value: SSAValue) -> Storage:
    copy = replace(p.placement.storage[value], name=None, hint="next")
    _assign(p, copy, value)
    return copy


def print_extract(p: FunctionPrinter, op: vector.ExtractOp) -> None:
    """One lane becomes a scalar; a part of a tile becomes another name for its variables."""
    dynamic = iter([p.stable(v) for v in op.dynamic_position])
    positions = [
        next(dynamic) if n == DYNAMIC_INDEX else str(n) for n in op.static_position.get_values()
    ]
    if not op.result.uses:
        return
    if op.vector in p.splats:
        target = p.splats if is_vector(op.result) else p.values
        target[op.result] = p.splats[op.vector]
    elif is_vector(op.result):
        p.parts[op.result] = (op.vector, positions)
    else:
        p.declare(op.result, _lane(p, op.vector, positions))


def _lane(p: FunctionPrinter, value: SSAValue, positions: list[str]) -> str:
    registers = Registers(p.machine)
    at = _reader(p, value)
    at.index = dict(enumerate(positions))
    last, lanes = len(positions) - 1, registers.lanes
    if not at.is_register(value):
        return at.operand(value, False)
    position = positions[last]
    constant = position.isdigit()
    at.index[last] = str(int(position) // lanes) if constant else binary("/", position, str(lanes))
    lane = str(int(position) % lanes) if constant else binary("%", position, str(lanes))
    short = short_name(element_type(value))
    return registers.lane(short, at.operand(value, True), lane if lanes > 1 else "0")


def _reader(p: FunctionPrinter, value: SSAValue) -> NestPrinter:
    """Something that names a vector's elements, outside any loop."""
    return NestPrinter(p, TileNest([], vector_shape(value)))


def print_reduction(p: FunctionPrinter, op: vector.ReductionOp) -> None:
    """All elements of a vector in one scalar: registers in a fixed tree, then their lanes."""
    if not op.dest.uses:
        return
    kind = op.kind.data.value
    if kind not in _KINDS:
        raise KaokenError(f"the C printer knows no reduction <{kind}>")
    text = _Reducer(p, op.vector, kind).reduce()
    if op.acc is not None:
        short = short_name(op.dest.type)
        text = _combine_scalars(short, _KINDS[kind][1], p.text(op.acc), text)
    p.declare(op.dest, text)


def _combine_scalars(short: str, how: str, a: str, b: str) -> str:
    return f"kk_{how}_{short}({a}, {b})" if how in ("max", "min") else binary(how, a, b)


class _Reducer:
    """Reduces one vector."""

    def __init__(self, p: FunctionPrinter, value: SSAValue, kind: str):
        self.p = p
        self.value = value
        self.short = short_name(element_type(value))
        self.table_name, self.how, self.neutral = _KINDS[kind]
        self.registers = Registers(p.machine)
        self.at = _reader(p, value)
        (self.size,) = vector_shape(value)

    def reduce(self) -> str:
        if not self.at.is_register(self.value):
            return self._reduce_equal()
        lanes = self.registers.lanes
        full, tail = divmod(self.size, lanes)
        if full > _LONGEST_TREE:
            total = self._loop(full)
        else:
            total = self._tree([self._register(str(j)) for j in range(full)]) if full else ""
        if tail:
            rest = self._padded(self._register(str(full)), tail)
            total = self._combine(total, rest) if total else rest
        return self._across(total)

    def _reduce_equal(self) -> str:
        """All elements are one scalar."""
        scalar = self.at.operand(self.value, False)
        if self.how == "+":
            return binary("*", scalar, f"{self.size}{'.0f' if self.short == 'f32' else ''}")
        if self.how == "*" and self.size > 1:
            raise KaokenError("the C printer knows no product of equal lanes")
        return scalar

    def _register(self, index: str) -> str:
        self.at.index = {0: index}
        return self.at.operand(self.value, True)

    def _combine(self, a: str, b: str) -> str:
        if self.how not in ("max", "min"):
            return binary(self.how, a, b)
        if self.registers.lanes == 1:
            return _combine_scalars(self.short, self.how, a, b)
        name = self.how if self.short.startswith("f") else f"s{self.how}"
        template = self.p.machine.instructions.get(f"{name}.{self.short}")
        if template is None:
            raise KaokenError(f"the C printer knows no {self.how} of {self.short} registers")
        return fill(template, a, b)

    def _tree(self, texts: list[str]) -> str:
        if len(texts) == 1:
            return texts[0]
        half = (len(texts) + 1) // 2
        return self._combine(self._tree(texts[:half]), self._tree(texts[half:]))

    def _loop(self, count: int) -> str:
        total = self.p.names.new("total")
        type_ = self.registers.type(self.short)
        self.p.line(f"{type_} {total} = {self._register('0')};")
        self.p.names.push()
        j = self.p.names.new("j")
        with self.p.braces(f"for (int {j} = 1; {j} < {count}; {j}++)"):
            self.p.line(f"{total} = {self._combine(total, self._register(j))};")
        self.p.names.pop()
        return total

    def _padded(self, register: str, count: int) -> str:
        """The last register with neutral elements in the lanes beyond the vector's end."""
        neutral = self.registers.splat(self.short, self._neutral())
        kept = self.registers.keep_first(self.short, register, neutral, count)
        if kept is not None:
            return kept
        name = self.p.names.new("last")
        self.p.line(f"{self.registers.type(self.short)} {name} = {register};")
        self._lanes(
            count, self.registers.lanes, lambda lane: f"{name}[{lane}] = {self._neutral()};"
        )
        return name

    def _neutral(self) -> str:
        if self.short == "f32" and self.neutral.isdigit():
            return f"{self.neutral}.0f"
        return self.neutral.replace("32", self.short[1:])

    def _across(self, register: str) -> str:
        """The lanes of one register combined."""
        if self.registers.lanes == 1:
            return register
        template = self.p.machine.instructions.get(f"{self.table_name}.{self.short}")
        if template is not None:
            return fill(template, register)
        name, total = self.p.names.new("lanes"), self.p.names.new("total")
        self.p.line(f"const {self.registers.type(self.short)} {name} = {register};")
        self.p.line(f"{c_name(self.short)} {total} = {name}[0];")

        def step(lane: str) -> str:
            return f"{total} = {_combine_scalars(self.short, self.how, total, f'{name}[{lane}]')};"

        self._lanes(1, self.registers.lanes, step)
        return total

    def _lanes(self, first: int, end: int, statement: Callable[[str], str]) -> None:
        self.p.names.push()
        lane = self.p.names.new("l")
        with self.p.braces(f"for (int {lane} = {first}; {lane} < {end}; {lane}++)"):
            self.p.line(statement(lane))
        self.p.names.pop()

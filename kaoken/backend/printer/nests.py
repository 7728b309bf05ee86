"""Prints vector ops as loop nests over registers.

    for (int i = 0; i < 8; i++) {
        const kk_f32x16 xv = _mm512_set1_ps(x[(m + i) * 768 + k]);
        for (int j = 0; j < 3; j++) {
            acc[i][j] = _mm512_fmadd_ps(xv, wv[j], acc[i][j]);
        }
    }

Each op stands in the loops over the dimensions it varies in. The last dimension goes by registers;
where its size is no multiple of the lanes and memory is touched, the last register is printed
apart. Arrays and memory are written at the end of an iteration, after all that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects import arith, vector
from xdsl.ir import Operation, SSAValue

from kaoken.backend.printer.elements import describe, register_expression
from kaoken.backend.printer.function import FunctionPrinter
from kaoken.backend.printer.nest_memory import NestMemory
from kaoken.backend.printer.registers import Registers
from kaoken.backend.printer.text import add, binary, is_atom, multiply, unary
from kaoken.backend.printer.tiles import Storage, TileNest, hint_of, is_vector, transfer_of
from kaoken.backend.printer.types import c_name, element_type, short_name, vector_shape
from kaoken.dialect.kaoken_loop import StepOp
from kaoken.errors import KaokenError

_INLINE_LENGTH = 64
_PLACE = re.compile(r"\w+(\[\w+\])*")


@dataclass(frozen=True)
class _Write:
    """Something to do at the end of an iteration, given the C text of a value."""

    text: str
    type: str
    emit: Callable[[str], None]


def print_nest(p: FunctionPrinter, nest: TileNest) -> None:
    """Print the ops of a nest, with declarations of the arrays they fill."""
    NestPrinter(p, nest).print()


def for_each_element(
    p: FunctionPrinter, storage: Storage, emit: Callable[[NestPrinter], None]
) -> None:
    """Loops over all elements of an array, around what `emit` prints."""
    dims = tuple(sorted(storage.dims))
    unrolled = p.placement.copies_unrolled(storage)
    NestPrinter(p, TileNest([], storage.shape, dims, unrolled), emit).print()


def declare_storage(p: FunctionPrinter, storage: Storage) -> None:
    """Declare an array's variables, unless that has been done."""
    if storage.name is None:
        storage.name = p.names.new(storage.hint, "t")
        p.line(f"{_declaration(p, storage, storage.name)};")


def _declaration(p: FunctionPrinter, storage: Storage, name: str) -> str:
    registers = Registers(p.machine)
    if not storage.is_register:
        type_ = c_name(storage.element)
    else:
        type_ = registers.type(storage.element)
    sizes = [p.placement.iterations((d,), storage.shape) for d in sorted(storage.dims)]
    return f"{type_} {name}{''.join(f'[{n}]' for n in sizes)}"


def _is_constant(storage: Storage) -> bool:
    """Whether a value is one scalar that never changes."""
    return not storage.dims and not storage.is_carried


class NestPrinter(NestMemory):
    """Prints one nest; `leaf` adds to its innermost iterations."""

    def __init__(
        self,
        p: FunctionPrinter,
        nest: TileNest,
        leaf: Callable[[NestPrinter], None] | None = None,
    ):
        super().__init__(p, nest)
        self.leaf = leaf
        self.ops = [op for op in nest.ops if not op.results or op.results[0].uses]
        self.level = {op: len(self.placement.level(op)) for op in self.ops}
        self.texts: dict[SSAValue, str] = {}
        self.splatted: dict[SSAValue, str] = {}
        self.arrays: dict[Storage, str] = {}
        self.writes: list[_Write] = []

    def print(self) -> None:
        for op in self.ops:
            self._prepare(op)
        if any(not op.results for op in self.ops):
            self.p.flush_reads()
        for op in self.ops:
            storage = self._stored(op.results[0]) if op.results else None
            if storage is not None and not _is_constant(storage):
                declare_storage(self.p, storage)
        spilled = [] if self.nest.unrolled else self._spill()
        self._level(0)
        for storage in spilled:
            self._copy(storage, self.arrays[storage], storage.name)

    def _prepare(self, op: Operation) -> None:
        """Fetch the scalars an op needs before the loops begin."""
        if (transfer := transfer_of(op)) is not None:
            self.sources[op] = self._memory(transfer)
        elif isinstance(op, arith.ConstantOp):
            self.sources[op] = self._constant(op)
        for operand in op.operands if transfer is None else ():
            if not is_vector(operand):
                self.p.atom(operand)

    def _stored(self, value: SSAValue) -> Storage | None:
        return self.placement.storage.get(value)

    def _spill(self) -> list[Storage]:
        """Copy arrays that live in registers to memory, where a rolled loop can index them.

        Gives those that the nest writes, to be copied back.
        """
        outputs = [s for op in self.ops for r in op.results if (s := self._stored(r))]
        inputs = [self._home(v)[0] for op in self.ops for v in op.operands if self._is_outer(v)]
        for storage in dict.fromkeys([*inputs, *outputs]):
            if not storage.in_registers or not storage.dims:
                continue
            name = self.p.names.new(f"{storage.name}_tile")
            self.p.line(f"{_declaration(self.p, storage, name)};")
            if storage in inputs:
                self._copy(storage, storage.name, name)
            self.arrays[storage] = name
        return [s for s in dict.fromkeys(outputs) if s in self.arrays]

    def _copy(self, storage: Storage, source: str | None, target: str | None) -> None:
        def assign(at: NestPrinter) -> None:
            self.p.line(f"{at.place(storage, target)} = {at.place(storage, source)};")

        for_each_element(self.p, storage, assign)

    def _is_outer(self, value: SSAValue) -> bool:
        """Whether a vector comes from outside and has variables."""
        if not is_vector(value) or value in self.p.splats:
            return False
        return value.owner not in self.level

    def _home(self, value: SSAValue) -> tuple[Storage, list[str]]:
        """Where a value from outside is kept, and which leading indices are fixed."""
        fixed: list[str] = []
        while value in self.p.parts:
            value, leading = self.p.parts[value]
            fixed = [*leading, *fixed]
        storage = self.placement.storage.get(value)
        if storage is None or storage.name is None:
            raise KaokenError(
                f"the C printer finds no place for a {value.type} in function "
                f"'{self.p.function.sym_name.data}'"
            )
        return storage, fixed

    def _level(self, depth: int) -> None:
        """Everything inside the outermost `depth` loops."""
        outer = dict(self.texts)
        self._preload(depth)
        for op in self.ops:
            if self.level[op] == depth:
                self._statement(op)
        self._finish_writes()
        if depth < len(self.nest.dims):
            self._loop(self.nest.dims[depth], depth)
        elif self.leaf is not None:
            self.leaf(self)
        self.texts = outer

    def _loop(self, dim: int, depth: int) -> None:
        size, lanes = self.nest.shape[dim], self.registers.lanes
        if dim != self.last or lanes == 1:
            self._iterate(dim, size, depth)
        elif size % lanes == 0 or not self.sources:
            self._iterate(dim, -(-size // lanes), depth)
        else:
            self._iterate(dim, size // lanes, depth)
            self._last_register(dim, depth)

    def _iterate(self, dim: int, count: int, depth: int) -> None:
        if count == 1:
            self.index[dim] = "0"
            self._level(depth + 1)
        if count < 2:
            return
        p = self.p
        p.names.push()
        name = p.names.new("j" if dim == self.last else "i")
        if self.nest.unrolled:
            p.pragma(f"GCC unroll {count}")
        with p.braces(f"for (int {name} = 0; {name} < {count}; {name}++)"):
            self.index[dim] = name
            self._level(depth + 1)
        p.names.pop()

    def _last_register(self, dim: int, depth: int) -> None:
        lanes = self.registers.lanes
        self.index[dim] = str(self.nest.shape[dim] // lanes)
        self.tail = self.nest.shape[dim] % lanes
        self._level(depth + 1)
        self.tail = 0

    def _preload(self, depth: int) -> None:
        """Keep old values that deeper loops read but this level overwrites."""
        written = {s for op in self.ops for r in op.results if (s := self._stored(r))}
        for op in self.ops:
            for value in op.operands:
                if self.level[op] <= depth or not self._is_outer(value) or value in self.texts:
                    continue
                storage, _ = self._home(value)
                if storage in written and len(storage.dims) == depth:
                    self.texts[value] = self._declare(value, self._outer(value))

    def _statement(self, op: Operation) -> None:
        if op.results:
            text = self._read(op) if op in self.sources else self._compute(op)
            self._keep(op.results[0], text, op)
            return
        transfer = transfer_of(op)
        assert transfer is not None
        in_registers = self._at_registers(op)
        text = self.operand(transfer.vector, in_registers)
        short = short_name(element_type(transfer.vector))
        type_ = self._type(short, in_registers)
        self.writes.append(_Write(text, type_, lambda value: self._write(op, short, value)))

    def _type(self, short: str, in_registers: bool) -> str:
        return self.registers.type(short) if in_registers else c_name(short)

    def _keep(self, value: SSAValue, text: str, op: Operation) -> None:
        """Decide whether a value is stored in an array, named, or only an expression."""
        users = [u.operation for u in value.uses if u.operation in self.level]
        storage = self._stored(value)
        in_registers = self._at_registers(op)
        if storage is not None and _is_constant(storage):
            self.p.splats[value] = text = self._declare(value, text)
        elif storage is not None:
            if users:
                text = self._declare(value, text)
            place = self.place(storage, self.arrays.get(storage, storage.name))
            type_ = self._type(storage.element, in_registers)
            self.writes.append(_Write(text, type_, lambda v: self.p.line(f"{place} = {v};")))
        elif not in_registers and all(self._at_registers(u) for u in users):
            short = short_name(element_type(value))
            self.splatted[value] = self._declare(value, self.registers.splat(short, text), True)
            return
        elif (
            len(users) != 1
            or self.level[users[0]] != self.level[op]
            or (len(text) > _INLINE_LENGTH)
        ):
            text = self._declare(value, text)
        self.texts[value] = text

    def _declare(self, value: SSAValue, text: str, in_registers: bool | None = None) -> str:
        if is_atom(text):
            return text
        if in_registers is None:
            in_registers = self.is_register(value)
        name = self.p.names.new(hint_of(value), "t")
        type_ = self._type(short_name(element_type(value)), in_registers)
        self.p.line(f"const {type_} {name} = {text};")
        return name

    def is_register(self, value: SSAValue) -> bool:
        return len(vector_shape(value)) - 1 in self.placement.dims(value)

    def _finish_writes(self) -> None:
        """Values first, when there are several: one write must not change what another reads."""
        writes, self.writes = self.writes, []
        held = [w.text if len(writes) == 1 or is_atom(w.text) else self._hold(w) for w in writes]
        for write, text in zip(writes, held, strict=True):
            write.emit(text)

    def _hold(self, write: _Write) -> str:
        name = self.p.names.new("t")
        self.p.line(f"const {write.type} {name} = {write.text};")
        return name

    def operand(self, value: SSAValue, in_registers: bool) -> str:
        """A vector operand as a register, or as the scalar it is when no register is asked for."""
        if not is_vector(value):
            return self.p.values[value]
        short = short_name(element_type(value))
        if not in_registers:
            return self._scalar(value)
        if value in self.splatted:
            return self.splatted[value]
        if value in self.p.splats or not self.is_register(value):
            return self.registers.splat(short, self._scalar(value))
        return self._scalar(value)

    def _scalar(self, value: SSAValue) -> str:
        """A value in its own form."""
        if value in self.p.splats:
            return self.p.splats[value]
        return self.texts[value] if value in self.texts else self._outer(value)

    def _outer(self, value: SSAValue) -> str:
        storage, fixed = self._home(value)
        name = self.arrays.get(storage, storage.name)
        lead = len(self.nest.shape) - len(vector_shape(value)) - len(fixed)
        return self.place(storage, name, fixed, lead)

    def place(
        self, storage: Storage, name: str | None, fixed: list[str] | None = None, lead: int = 0
    ) -> str:
        """The element of an array that belongs to the current iteration."""
        known = fixed or []
        indices = [
            known[d] if d < len(known) else self.index.get(d + lead, "0")
            for d in sorted(storage.dims)
        ]
        return f"{name}{''.join(f'[{i}]' for i in indices)}"

    def _compute(self, op: Operation) -> str:
        in_registers = self._at_registers(op)
        if isinstance(op, vector.BroadcastOp):
            return self.operand(op.source, in_registers)
        if isinstance(op, StepOp):
            return self._step(op, in_registers)
        element = describe(op)
        assert element is not None
        operands = [self.operand(v, in_registers) for v in op.operands]
        scalar_choice = isinstance(op, arith.SelectOp) and not is_vector(op.cond)
        if not in_registers or self.registers.lanes == 1 or scalar_choice:
            return element.scalar(*operands)
        instructions = self.p.machine.instructions
        text = register_expression(element, operands, instructions, self.registers.lanes)
        return text if text is not None else self._by_lanes(op, element.result, element.scalar)

    def _step(self, op: StepOp, in_registers: bool) -> str:
        """Where the iteration begins, and in registers the numbers of the lanes on top."""
        *outer, last = op.strides.get_values()
        first = self.p.values[op.start]
        for d, stride in enumerate(outer):
            first = add(first, multiply(str(stride), self.index.get(d, "0")))
        if last and self.last in self.index:
            first = add(first, multiply(str(last), self._position(self.last, in_registers, None)))
        first = unary("(int32_t)", first)
        if not in_registers:
            return first
        start = self.registers.splat("i32", first)
        if self.registers.lanes == 1:
            return start
        lanes = ", ".join(str(lane * last) for lane in range(self.registers.lanes))
        return binary("+", start, f"({self.registers.type('i32')}){{{lanes}}}")

    def _by_lanes(self, op: Operation, short: str, scalar: Callable[..., str]) -> str:
        """A register filled lane by lane."""
        operands = [self._lane_operand(v) for v in op.operands]
        return self._fill(short, lambda lane: scalar(*(get(lane) for get in operands)))

    def _lane_operand(self, value: SSAValue) -> Callable[[str], str]:
        short = short_name(element_type(value))
        if not is_vector(value):
            return lambda _: self.p.values[value]
        if value in self.p.splats or (not self.is_register(value) and value in self.texts):
            return lambda _: self._scalar(value)
        register = self.operand(value, True)
        if not _PLACE.fullmatch(register):
            register = self._declare(value, register, True)
        return lambda lane: self.registers.lane(short, register, lane)

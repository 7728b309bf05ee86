"""Prints how a loop nest over registers reads and writes memory.

    const kk_f32x16 xv = _mm512_loadu_ps(&x[(m + i) * 768 + 16 * j]);

What does not lie side by side, and has no instruction, goes lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects import arith
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr
from xdsl.ir import Operation

from kaoken.backend.printer.function import FunctionPrinter
from kaoken.backend.printer.indexing import flatten
from kaoken.backend.printer.literals import literal
from kaoken.backend.printer.registers import Registers
from kaoken.backend.printer.text import add, is_atom, multiply, wrap
from kaoken.backend.printer.tiles import TileNest, Transfer
from kaoken.backend.printer.types import element_type, scalar_type, short_name, vector_shape


@dataclass(frozen=True)
class _Source:
    """Memory that a nest reads or writes: a pointer, the indices it starts at, its sizes."""

    pointer: str
    indices: tuple[str, ...]
    dims: tuple[int | None, ...]
    size: Callable[[int], str]


class NestMemory:
    """The memory of a nest, and where in it the current iteration is."""

    def __init__(self, p: FunctionPrinter, nest: TileNest):
        self.p = p
        self.nest = nest
        self.registers = Registers(p.machine)
        self.placement = p.placement
        self.last = len(nest.shape) - 1
        self.sources: dict[Operation, _Source] = {}
        self.index: dict[int, str] = {}
        """What counts the loop over a dimension."""
        self.tail = 0
        """How many lanes of the last register there are; 0 for all."""

    def _memory(self, transfer: Transfer) -> _Source:
        indices = tuple(self.p.stable(i) for i in transfer.indices)
        buffer = transfer.memref
        pointer = wrap(self.p.stable(buffer), 15)
        return _Source(pointer, indices, transfer.dims, lambda d: self.p.size(buffer, d))

    def _constant(self, op: arith.ConstantOp) -> _Source:
        """A table of numbers for a vector constant."""
        assert isinstance(op.value, DenseIntOrFPElementsAttr)
        name = self.p.new_name(op.result, "table")
        numbers = ", ".join(literal(a) for a in op.value.iter_attrs())
        count = len(op.value)
        type_ = scalar_type(element_type(op.result))
        self.p.line(f"static const {type_} {name}[{count}] = {{{numbers}}};")
        shape = vector_shape(op.result)
        dims = tuple(range(len(shape)))
        return _Source(name, ("0",) * len(shape), dims, lambda d: str(shape[d]))

    def _at_registers(self, op: Operation) -> bool:
        """Whether an op handles registers, not scalars."""
        return self.last in self.placement.level(op)

    def _fill(self, short: str, lane_text: Callable[[str], str], count: int = 0) -> str:
        """A new variable whose first lanes (all of them for 0) are filled by a loop."""
        name = self.p.names.new("lanes")
        self.p.line(f"{self.registers.type(short)} {name} = {self.registers.zero(short)};")
        with self._lanes(count or self.registers.lanes) as lane:
            self.p.line(self.registers.set_lane(short, name, lane, lane_text(lane)))
        return name

    def _lanes(self, count: int) -> _LaneLoop:
        return _LaneLoop(self.p, count)

    def _element(self, op: Operation, lane: str | None = None) -> str:
        """The memory element where the current register begins, or that of one of its lanes."""
        source = self.sources[op]
        by_register = self._at_registers(op)
        texts: list[str] = []
        for position, base in enumerate(source.indices):
            text = base
            for d, moved in enumerate(source.dims):
                if moved == position:
                    text = add(text, self._position(d, by_register, lane))
            texts.append(text)
        return f"{source.pointer}[{flatten(texts, source.size)}]"

    def _position(self, dim: int, by_register: bool, lane: str | None) -> str:
        index = self.index.get(dim, "0")
        if dim != self.last or not by_register:
            return index
        first = multiply(str(self.registers.lanes), index)
        return add(first, lane) if lane else first

    def _is_contiguous(self, op: Operation) -> bool:
        source = self.sources[op]
        return source.dims[-1] == len(source.indices) - 1

    def _read(self, op: Operation) -> str:
        short = short_name(element_type(op.results[0]))
        if not self._at_registers(op):
            return self._element(op)
        if self.sources[op].dims[-1] is None:
            return self.registers.splat(short, self._element(op))
        text = None
        if self._is_contiguous(op) and self.tail:
            text = self.registers.load_first(short, self._element(op), self.tail)
        elif self._is_contiguous(op):
            text = self.registers.load(short, self._element(op))
        elif self.registers.lanes == 1:
            text = self._element(op)
        if text is not None:
            return text
        return self._fill(short, lambda lane: self._element(op, lane), self.tail)

    def _write(self, op: Operation, short: str, value: str) -> None:
        if not self._at_registers(op):
            self.p.line(f"{self._element(op)} = {value};")
            return
        statement = None
        if self._is_contiguous(op) and self.tail:
            statement = self.registers.store_first(short, self._element(op), value, self.tail)
        elif self._is_contiguous(op) or self.registers.lanes == 1:
            statement = self.registers.store(short, self._element(op), value)
        if statement is not None:
            self.p.line(statement)
            return
        if not is_atom(value):
            name = self.p.names.new("t")
            self.p.line(f"const {self.registers.type(short)} {name} = {value};")
            value = name
        with self._lanes(self.tail or self.registers.lanes) as lane:
            self.p.line(f"{self._element(op, lane)} = {self.registers.lane(short, value, lane)};")


class _LaneLoop:
    """`for (int l = 0; l < count; l++) { ... }`; entering gives the name of `l`."""

    def __init__(self, p: FunctionPrinter, count: int):
        self.p = p
        self.count = count

    def __enter__(self) -> str:
        self.p.names.push()
        lane = self.p.names.new("l")
        self.scope = self.p.braces(f"for (int {lane} = 0; {lane} < {self.count}; {lane}++)")
        self.scope.__enter__()
        return lane

    def __exit__(self, *exception: object) -> None:
        self.scope.__exit__(None, None, None)
        self.p.names.pop()

"""The state of printing one function: lines, scopes, and the C expression of every value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from xdsl.dialects import affine, arith, func, memref, scf
from xdsl.dialects.builtin import IndexType, MemRefType
from xdsl.ir import Block, Operation, SSAValue

from kaoken.backend.machine import TargetMachine
from kaoken.backend.printer.names import Names
from kaoken.backend.printer.placement import Placement
from kaoken.backend.printer.text import is_atom
from kaoken.backend.printer.tiles import Item, TileNest
from kaoken.backend.printer.types import element_type, scalar_type
from kaoken.dialect.dims import DYNAMIC
from kaoken.dialect.kaoken_loop import TeamType, TimersType
from kaoken.errors import KaokenError

_ASSIGNMENTS = (memref.StoreOp, affine.StoreOp, affine.YieldOp, scf.YieldOp)
_LINE_LENGTH = 100
_INLINE_LENGTH = 72
"""Longer expressions get a variable of their own."""


@dataclass
class Signature:
    """A function as its callers see it."""

    c_name: str
    written: frozenset[int] = frozenset()
    """Which arguments' memory it writes."""
    uses_weights: bool = False


@dataclass
class ModuleState:
    """What the functions of a module share."""

    machine: TargetMachine
    signatures: dict[str, Signature]
    weight_offset: Callable[[str, MemRefType], int]
    constants: set[SSAValue]
    """Pointers to memory that nobody writes through them."""
    reserved: frozenset[str] = frozenset()
    globals: dict[str, str] = field(default_factory=dict)
    """C names of memref.global symbols."""


class FunctionPrinter:
    """Prints the body of one function. Statement printers are handed in by op class."""

    def __init__(
        self,
        module: ModuleState,
        function: func.FuncOp,
        statements: dict[type[Operation], Callable[[FunctionPrinter, Operation], None]],
        print_nest: Callable[[FunctionPrinter, TileNest], None],
    ):
        self.module = module
        self.function = function
        self.machine = module.machine
        self.placement = Placement(function, module.machine.lane_count)
        self.names = Names(module.reserved)
        self.lines: list[str] = []
        self.values: dict[SSAValue, str] = {}
        self.splats: dict[SSAValue, str] = {}
        """Vectors whose lanes all are one scalar expression."""
        self.parts: dict[SSAValue, tuple[SSAValue, list[str]]] = {}
        """Vectors that are a part of another: (whole, leading indices)."""
        self.sizes: dict[SSAValue, list[str]] = {}
        """The sizes of memrefs with open inner sizes; empty strings where unknown."""
        self.symbols: dict[str, str] = {}
        """Symbolic sizes by name, from the arguments that carry them."""
        self.targets: list[list[SSAValue]] = []
        """What the yields of the enclosing ops assign to."""
        self.allocated: list[list[str]] = []
        """Names of the buffers to free at the end of each enclosing block."""
        self._statements = statements
        self._print_nest = print_nest
        self._pending: dict[SSAValue, tuple[str, bool]] = {}
        self._depth = 1

    def line(self, text: str) -> None:
        """A line of C, broken at spaces where it is long."""
        indent = "    " * self._depth
        while len(indent) + len(text) > _LINE_LENGTH:
            at = break_at(text, _LINE_LENGTH - len(indent))
            if at <= 0:
                break
            self.lines.append(indent + text[:at])
            indent, text = "    " * (self._depth + 1), text[at + 1 :]
        self.lines.append(indent + text)

    def pragma(self, text: str) -> None:
        self.lines.append("#pragma " + text)

    @contextmanager
    def braces(self, head: str, tail: str = "}") -> Iterator[None]:
        """`head {`, an inner scope, `}`."""
        self.line(f"{head} {{" if head else "{")
        self._depth += 1
        self.names.push()
        yield
        self.names.pop()
        self._depth -= 1
        self.line(tail)

    @contextmanager
    def braces_continued(self) -> Iterator[None]:
        """The scope after `} else {`."""
        self._depth += 1
        self.names.push()
        yield
        self.names.pop()
        self._depth -= 1
        self.line("}")

    @contextmanager
    def case(self, label: str) -> Iterator[None]:
        """`label: {`, an inner scope, `}`, level with the switch."""
        self._depth -= 1
        with self.braces(f"{label}:"):
            yield
        self._depth += 1

    def block(self, block: Block) -> None:
        """The statements of a block; the caller has opened the scope."""
        self.allocated.append([])
        for item in self.placement.plans[block]:
            self._item(item)
        for name in self.allocated.pop():
            self.line(f"free({name});")

    def _item(self, item: Item) -> None:
        if isinstance(item, TileNest):
            self._print_nest(self, item)
            return
        handler = self._statements.get(type(item))
        if handler is None:
            raise KaokenError(
                f"the C printer has no word for '{item.name}' in function "
                f"'{self.function.sym_name.data}': lower it first"
            )
        handler(self, item)

    def text(self, value: SSAValue) -> str:
        """The C expression of a scalar or a pointer, to be printed once and now."""
        if value in self._pending:
            return self._pending.pop(value)[0]
        if value not in self.values:
            raise KaokenError(
                f"the C printer meets a value of type {value.type} before its definition in "
                f"function '{self.function.sym_name.data}'"
            )
        return self.values[value]

    def texts(self, values: Sequence[SSAValue]) -> list[str]:
        return [self.text(v) for v in values]

    def atom(self, value: SSAValue) -> str:
        """A name or literal for a scalar, which may be repeated anywhere below."""
        text = self.text(value)
        if not is_atom(text):
            self.declare(value, text)
        return self.values.setdefault(value, text)

    def stable(self, value: SSAValue) -> str:
        """An expression for an index, which may be repeated below: no memory is read."""
        if value in self._pending:
            text, reads = self._pending.pop(value)
            if reads:
                self.declare(value, text)
            else:
                self.values[value] = text
        return self.values[value] if value in self.values else self.text(value)

    def define(self, value: SSAValue, text: str, reads: bool = False) -> None:
        """Give a value its expression: repeated, kept for its one use, or put in a variable."""
        if not value.uses:
            return
        if (is_atom(text) and not reads) or (not reads and _is_plain_index(value, text)):
            self.values[value] = text
        elif _used_once_nearby(value) and (len(text) <= _INLINE_LENGTH or _is_last_step(value)):
            self._pending[value] = (text, reads)
        else:
            self.declare(value, text)

    def reads_memory(self, value: SSAValue) -> bool:
        """Whether the expression of a value, not yet printed, reads memory."""
        return value in self._pending and self._pending[value][1]

    def flush_reads(self) -> None:
        """Before memory changes: give what was read from it a variable."""
        for value in [v for v, (_, reads) in self._pending.items() if reads]:
            self.declare(value, self._pending.pop(value)[0])

    def declare(self, value: SSAValue, text: str) -> None:
        name = self.new_name(value)
        self.line(f"{self.declaration(value, name)} = {text};")
        self.values[value] = name

    def new_name(self, value: SSAValue, fallback: str = "t") -> str:
        return self.names.new(value.name_hint, fallback)

    def declaration(self, value: SSAValue, name: str) -> str:
        """`const float t` or `const float *const x`."""
        pointer = isinstance(value.type, MemRefType)
        type_ = self.c_type(value)
        return f"{type_}const {name}" if pointer else f"const {type_}{name}"

    def size(self, value: SSAValue, position: int) -> str:
        """The C expression of one size of a memref.

        Raises KaokenError when nothing says what an open size is.
        """
        type_ = value.type
        assert isinstance(type_, MemRefType)
        if (size := type_.get_shape()[position]) != DYNAMIC:
            return str(size)
        known = self.sizes.get(value)
        if known is None or not known[position]:
            raise KaokenError(
                f"size {position} of a {type_} in function '{self.function.sym_name.data}' is "
                "unknown: say it with kaoken.shape"
            )
        return known[position]

    def call_line(self, head: str, arguments: Sequence[str]) -> None:
        """`head(arguments);`, broken into lines where it is long."""
        text = f"{head}({', '.join(arguments)});"
        if len(text) + 4 * self._depth <= _LINE_LENGTH:
            self.line(text)
            return
        self.line(f"{head}(")
        for row in filled_lines(arguments, _LINE_LENGTH - 4 * (self._depth + 1) - 2):
            self.line("    " + row)
        self.lines[-1] += ");"

    def c_type(self, value: SSAValue) -> str:
        """The C type of a scalar (`float `) or pointer (`const float *`), ready for a name."""
        if isinstance(value.type, TeamType):
            return "kk_team *"
        if isinstance(value.type, TimersType):
            return "kk_timers *"
        if isinstance(value.type, MemRefType):
            const = "const " if value in self.module.constants else ""
            return f"{const}{scalar_type(element_type(value))} *"
        return f"{scalar_type(value.type)} "


def break_at(text: str, width: int) -> int:
    """Where to break C text: outside as many brackets as possible, after commas, far right.

    Gives 0 where there is no space to break at.
    """
    best, best_rank, depth = 0, 3 * len(text), 0
    for at, character in enumerate(text[: width + 1]):
        depth += (character in "([{") - (character in ")]}")
        beside = text[max(at - 1, 0) : at + 2]
        rank = 3 * depth + (text[at - 1] != ",") + any(c in "*/" for c in beside)
        if character == " " and at > width // 3 and rank <= best_rank:
            best, best_rank = at, rank
    return best


def filled_lines(words: Sequence[str], width: int) -> list[str]:
    """The words, separated by commas, in lines of at most `width` characters where possible."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 2 <= width:
            lines[-1] += f", {word}"
        else:
            if lines:
                lines[-1] += ","
            lines.append(word)
    return lines


def _is_plain_index(value: SSAValue, text: str) -> bool:
    """Index arithmetic that is cheap enough, and clearer, where it is used."""
    if not isinstance(value.type, IndexType) or len(text) > _INLINE_LENGTH:
        return False
    if isinstance(value.owner, affine.ApplyOp):
        return not any(word in text for word in ("/", "%", "kk_"))
    return isinstance(value.owner, arith.AddiOp | arith.SubiOp | arith.MuliOp | arith.ConstantOp)


def _is_last_step(value: SSAValue) -> bool:
    """Whether the one use only assigns the value to something that has a name."""
    (use,) = value.uses
    return isinstance(use.operation, _ASSIGNMENTS)


def _used_once_nearby(value: SSAValue) -> bool:
    """Whether the only use is in the same block: an expression must not move into a loop."""
    if not value.has_one_use():
        return False
    (use,) = value.uses
    assert isinstance(value.owner, Operation)
    return use.operation.parent is value.owner.parent

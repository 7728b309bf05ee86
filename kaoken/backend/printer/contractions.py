"""Prints products of matrices: through a matrix unit's tile registers, or as three loops.

    kk_shape = kk_shape_tiles(kk_shape, rows, 32, 16);
    if (rows > 16) {
        _tile_zero(0); ...                              /* 2 x 2 tiles of sums */
        for (int64_t k = 0; k < 384; k += 16) {
            _tile_loadd(4, &x[m * 384 + k], 1536);      /* 16 rows of 16 words */
            _tile_loadd(6, &w[(n0 * 384 + k) * 32], 128);
            ...
            _tile_dpbf16ps(0, 4, 6); ...
        }
        _tile_stored(0, sums, 128); ...
    } else { ... }                                      /* 1 x 2 tiles */

Registers are numbered tiles of sums first, row by row, then those of the left factor, then those
of the right one. A last step of fewer words takes the sums up again with registers of that shape.

Where there is one tile of rows, memory is what takes the time. A CPU follows a stream of reads
within a page of 4 KB, and several such streams at once; a panel is a single one. So lines are asked
for that lie in several later pages, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from xdsl.ir import SSAValue

from kaoken.backend.printer.function import FunctionPrinter
from kaoken.backend.printer.indexing import flatten, least
from kaoken.backend.printer.text import add, fill, is_integer, multiply, wrap
from kaoken.backend.printer.types import c_name, element_type, short_name
from kaoken.backend.targets.base import MatrixUnit
from kaoken.dialect.kaoken_loop import ContractOp

WORD_BYTES = 4
PAGE_BYTES = 4096


def print_contract(p: FunctionPrinter, op: ContractOp) -> None:
    """Statements that fill the target."""
    product = _Product.of(p, op)
    p.flush_reads()
    unit = p.machine.matrix_unit
    if unit is None:
        _print_loops(p, op, product)
    else:
        _Tiles(p, unit, str(op.kind.data), product).print()


def begin_tiles(p: FunctionPrinter) -> None:
    """What a function that contracts begins with, where there is a matrix unit."""
    if _uses_tiles(p):
        p.line(p.machine.instructions["tile.begin"])


def end_tiles(p: FunctionPrinter) -> None:
    if _uses_tiles(p):
        p.line(p.machine.instructions["tile.end"])


def _uses_tiles(p: FunctionPrinter) -> bool:
    has_unit = p.machine.matrix_unit is not None
    return has_unit and any(isinstance(op, ContractOp) for op in p.function.walk())


@dataclass(frozen=True)
class _Matrix:
    """Where a matrix lies in memory: a pointer, the indices of its first element, its sizes."""

    p: FunctionPrinter
    buffer: SSAValue
    indices: tuple[str, ...]

    @staticmethod
    def of(p: FunctionPrinter, buffer: SSAValue, indices: Sequence[SSAValue]) -> _Matrix:
        return _Matrix(p, buffer, tuple(p.stable(i) for i in indices))

    def place(self, row: str, column: str) -> str:
        """An element."""
        *outer, first, last = self.indices
        texts = [*outer, add(first, row), add(last, column)]
        offset = flatten(texts, lambda d: self.p.size(self.buffer, d))
        return f"{wrap(self.p.stable(self.buffer), 15)}[{offset}]"

    @property
    def pointer(self) -> str:
        return self.p.stable(self.buffer)

    def offset(self, row: str) -> str:
        """Where a row begins, in bytes."""
        *outer, first, last = self.indices
        texts = [*outer, add(first, row), last]
        return multiply(wrap(flatten(texts, lambda d: self.p.size(self.buffer, d)), 14), "4")

    @property
    def row_bytes(self) -> str:
        width = self.p.size(self.buffer, len(self.indices) - 1)
        return multiply(width, str(WORD_BYTES))

    def moved(self, row: str, column: str) -> _Matrix:
        """The matrix that begins at an element of this one."""
        *outer, first, last = self.indices
        return replace(self, indices=(*outer, add(first, row), add(last, column)))


@dataclass(frozen=True)
class _Product:
    """A product's matrices and sizes."""

    lhs: _Matrix
    rhs: _Matrix
    target: _Matrix
    rows: str
    most_rows: int
    columns: int
    depth: str
    ahead: int
    """How many rows of the right factor before they are read; 0 for none."""

    @staticmethod
    def of(p: FunctionPrinter, op: ContractOp) -> _Product:
        return _Product(
            _Matrix.of(p, op.lhs, op.lhs_indices),
            _Matrix.of(p, op.rhs, op.rhs_indices),
            _Matrix.of(p, op.target, op.target_indices),
            p.atom(op.rows),
            op.most_rows,
            op.columns.value.data,
            p.atom(op.depth),
            0 if op.prefetch is None else op.prefetch.value.data,
        )


def _print_loops(p: FunctionPrinter, op: ContractOp, product: _Product) -> None:
    type_ = c_name(short_name(element_type(op.target)))
    p.names.push()
    i, j, k, total = (p.names.new(name) for name in ("i", "j", "k", "sum"))
    with (
        p.braces(f"for (int64_t {i} = 0; {i} < {product.rows}; {i}++)"),
        p.braces(f"for (int64_t {j} = 0; {j} < {product.columns}; {j}++)"),
    ):
        p.line(f"{type_} {total} = 0;")
        with p.braces(f"for (int64_t {k} = 0; {k} < {product.depth}; {k}++)"):
            factors = f"{product.lhs.place(i, k)}, {product.rhs.place(k, j)}"
            p.line(f"{total} = kk_dot_{op.kind.data}({factors}, {total});")
        p.line(f"{product.target.place(i, j)} = {total};")
    p.names.pop()


@dataclass(frozen=True)
class _Tiles:
    """Prints one product through the tile registers of a matrix unit."""

    p: FunctionPrinter
    unit: MatrixUnit
    kind: str
    product: _Product

    def print(self) -> None:
        """Block by block of the sums that the registers hold at once."""
        width = self.unit.block[1] * self.unit.columns
        for start in range(0, self.product.columns, width):
            part = self._part("0", str(start))
            part._rows(replace(part.product, columns=min(width, self.product.columns - start)))

    def _part(self, row: str, column: str) -> _Tiles:
        """What begins at a row and a column of the sums."""
        whole = self.product
        moved = replace(
            whole,
            lhs=whole.lhs.moved(row, "0"),
            rhs=whole.rhs.moved("0", column),
            target=whole.target.moved(row, column),
        )
        return replace(self, product=moved)

    def _rows(self, product: _Product) -> None:
        height = self.unit.block[0] * self.unit.rows
        if product.most_rows <= height:
            replace(self, product=product)._block()
            return
        p, rows = self.p, product.rows
        p.names.push()
        first, some = p.names.new("i"), p.names.new("rows")
        with p.braces(f"for (int64_t {first} = 0; {first} < {rows}; {first} += {height})"):
            p.line(f"const int64_t {some} = {least([str(height), f'{rows} - {first}'])};")
            part = replace(self, product=product)._part(first, "0")
            block = replace(part.product, rows=some, most_rows=height)
            replace(part, product=block)._block()
        p.names.pop()

    def _block(self) -> None:
        """Whole steps of k, then a shorter one."""
        depth, step = self.product.depth, self.unit.depth
        if not is_integer(depth):
            self._steps(f"{depth} / {step} * {step}")
            with self.p.braces(f"if ({depth} % {step} != 0)"):
                self._last_step(f"{depth} / {step} * {step}", f"{depth} % {step}", True)
            return
        whole, rest = int(depth) - int(depth) % step, int(depth) % step
        if whole:
            self._steps(str(whole))
        if rest:
            self._last_step(str(whole), str(rest), whole > 0)

    def _steps(self, end: str) -> None:
        """The sums over whole steps, from 0 to `end`."""
        p, step = self.p, self.unit.depth

        def emit(height: int) -> None:
            self._zero(height)
            p.names.push()
            k = p.names.new("k")
            with p.braces(f"for (int64_t {k} = 0; {k} < {end}; {k} += {step})"):
                self._step(height, k)
            p.names.pop()
            self._move("store", height)

        self._shape(str(step))
        self._by_height(emit)

    def _last_step(self, first: str, depth: str, resumes: bool) -> None:
        """One step of fewer words, added to the sums stored before it, if there are any."""

        def emit(height: int) -> None:
            if resumes:
                self._move("load", height)
            else:
                self._zero(height)
            self._step(height, first)
            self._move("store", height)

        self._shape(depth)
        self._by_height(emit)

    def _by_height(self, emit: Callable[[int], None]) -> None:
        """Code for each number of tiles that the rows may fill; registers are chosen by it."""
        rows, size = self.product.rows, self.unit.rows
        if is_integer(rows):
            emit(-(-int(rows) // size))
            return
        most = -(-self.product.most_rows // size)
        self._choose(most, emit)

    def _choose(self, height: int, emit: Callable[[int], None]) -> None:
        """`if (rows > 16) { ... } else { ... }`"""
        if height == 1:
            emit(1)
            return
        p, least_rows = self.p, (height - 1) * self.unit.rows
        with p.braces(f"if ({self.product.rows} > {least_rows})", "} else {"):
            emit(height)
        with p.braces_continued():
            self._choose(height - 1, emit)

    @property
    def _width(self) -> int:
        """Tiles across."""
        return -(-self.product.columns // self.unit.columns)

    def _sum(self, row: int, column: int) -> str:
        """The register of a tile of sums."""
        return str(row * self.unit.block[1] + column)

    def _left(self, row: int) -> str:
        return str(self.unit.block[0] * self.unit.block[1] + row)

    def _right(self, column: int) -> str:
        down, across = self.unit.block
        return str(down * across + down + column)

    def _shape(self, depth: str) -> None:
        template = self.p.machine.instructions["tile.shape"]
        product = self.product
        self.p.line(fill(template, rows=product.rows, columns=product.columns, depth=depth))

    def _emit(self, name: str, *arguments: str) -> None:
        self.p.line(fill(self.p.machine.instructions[f"tile.{name}"], *arguments))

    def _zero(self, height: int) -> None:
        for row, column in self._sums(height):
            self._emit("zero", self._sum(row, column))

    def _move(self, direction: str, height: int) -> None:
        """Load or store all sums."""
        for row, column in self._sums(height):
            self._transfer(direction, self._sum(row, column), self.product.target, (row, column))

    def _sums(self, height: int) -> list[tuple[int, int]]:
        return [(row, column) for row in range(height) for column in range(self._width)]

    def _step(self, height: int, k: str) -> None:
        """Multiply words k .. of all rows and columns."""
        lhs, rhs = self.product.lhs.moved("0", k), self.product.rhs.moved(k, "0")
        if height == 1:
            self._prefetch(k)
        for row in range(height):
            self._transfer("load", self._left(row), lhs, (row, 0))
        for column in range(self._width):
            self._transfer("load", self._right(column), rhs, (0, column))
        for row, column in self._sums(height):
            self._emit(
                f"dot.{self.kind}", self._sum(row, column), self._left(row), self._right(column)
            )

    def _prefetch(self, k: str) -> None:
        """Ask for as many lines as a step reads, of the pages after those that it reads from."""
        rhs, ahead = self.product.rhs, self.product.ahead
        if ahead == 0 or not is_integer(rhs.row_bytes):
            return
        row = int(rhs.row_bytes)
        pages = max(1, ahead * row // PAGE_BYTES)
        arguments = (rhs.pointer, rhs.offset(k), str(self.unit.depth * row), str(pages))
        self.p.line(f"kk_prefetch_pages({', '.join(arguments)});")

    def _transfer(
        self, direction: str, register: str, matrix: _Matrix, tile: tuple[int, int]
    ) -> None:
        row, column = tile[0] * self.unit.rows, tile[1] * self.unit.columns
        place = matrix.place(str(row), str(column))
        self._emit(direction, register, f"&{place}", matrix.row_bytes)

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

Of more rows than the registers hold, `block` words of k are passed by all before the next are read:
both factors come from the second cache else, which gives only half of what the unit takes.

What is asked for `ahead` is spread over the steps of all rows: all at once it would keep the reads
of the step waiting. A CPU follows a stream of reads within a page of 4 KB, and several such streams
at once; a panel is a single one. So what is fetched from afar, from memory, lies in several pages,
which take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xdsl.dialects.builtin import MemRefType
from xdsl.ir import SSAValue

from kaoken.backend.machine import LINE_BYTES
from kaoken.backend.printer.function import FunctionPrinter
from kaoken.backend.printer.indexing import flatten, least
from kaoken.backend.printer.text import add, binary, fill, is_integer, multiply, wrap
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
    if unit is None or (product.lhs.in_panels and product.lhs.width != unit.depth):
        _print_loops(p, op, product)
    else:
        product = replace(product, lhs=replace(product.lhs, by_panels=True))
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
    in_panels: bool = False
    """Whether columns lie in panels; the last index then counts all of them."""
    by_panels: bool = False
    """Whether only those columns are asked for that panels begin with."""

    @staticmethod
    def of(
        p: FunctionPrinter, buffer: SSAValue, indices: Sequence[SSAValue], in_panels: bool = False
    ) -> _Matrix:
        return _Matrix(p, buffer, tuple(p.stable(i) for i in indices), in_panels)

    def place(self, row: str, column: str) -> str:
        """An element."""
        *outer, first, last = self.indices
        texts = [*outer, add(first, row), add(last, column)]
        if self.in_panels:
            texts = self._in_panels(*texts)
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
    def width(self) -> int:
        """The words of a row."""
        assert isinstance(self.buffer.type, MemRefType)
        return self.buffer.type.get_shape()[-1]

    @property
    def row_bytes(self) -> str:
        width = self.p.size(self.buffer, len(self.indices) - 1)
        return multiply(width, str(WORD_BYTES))

    def _in_panels(self, panel: str, row: str, column: str) -> list[str]:
        """The indices of a column of a panel."""
        width = self.width
        if is_integer(column):
            panels, rest = divmod(int(column), width)
            return [add(panel, str(panels)), row, str(rest)]
        rest = "0" if self.by_panels else binary("%", column, str(width))
        return [add(panel, binary("/", column, str(width))), row, rest]

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
    block: int | None
    distances: tuple[int, ...]

    @staticmethod
    def of(p: FunctionPrinter, op: ContractOp) -> _Product:
        return _Product(
            _Matrix.of(p, op.lhs, op.lhs_indices, op.lhs_in_panels is not None),
            _Matrix.of(p, op.rhs, op.rhs_indices),
            _Matrix.of(p, op.target, op.target_indices),
            p.atom(op.rows),
            op.most_rows,
            op.columns.value.data,
            p.atom(op.depth),
            op.block_words,
            op.distances,
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
class _Stream:
    """Lines of the right factor that are asked for, some at each step of each block of rows."""

    p: FunctionPrinter
    place: str
    """A variable: where the next lines are."""
    count: str
    """How many of them a step asks for, of each page where they lie in pages."""
    pages: int
    """How many pages the lines lie in, in turn; 0 for lines one after the other."""

    @staticmethod
    def of(tiles: _Tiles, first: str, distance: int, blocks: str) -> _Stream:
        """What lies so many words behind `first`, shared by so many blocks of rows."""
        p, product = tiles.p, tiles.product
        is_near = distance <= (product.block or 0)
        pages = 0 if is_near else max(1, distance * product.rhs.width * WORD_BYTES // PAGE_BYTES)
        place, count = p.names.new("ahead"), p.names.new("lines")
        if is_near:
            behind = product.rhs.moved(add(first, str(distance)), "0").place("0", "0")
            p.line(f"const char *{place} = (const char *)&{behind};")
        else:
            line = f"{wrap(product.rhs.offset(first), 13)} / {LINE_BYTES}"
            memory = wrap(product.rhs.pointer, 15)
            p.line(f"const char *{place} = kk_pages_ahead({memory}, {line}, {pages});")
        lines = tiles.unit.depth * product.rhs.width * WORD_BYTES // LINE_BYTES
        share = _ceildiv(max(1, lines), blocks)
        # Rows that are one block read each line once: it need not wait in the first cache.
        some = f"{blocks} > 1 ? {share} : 0" if is_near else _ceildiv(share, pages)
        p.line(f"const int64_t {count} = {some};")
        return _Stream(p, place, count, pages)

    def step(self) -> None:
        if self.pages:
            arguments = f"{self.place}, {self.count}, {self.pages}"
            self.p.line(f"{self.place} = kk_prefetch_pages({arguments});")
            return
        i = self.p.names.new("i")
        head = f"int64_t {i} = 0; {i} < {self.count}; {i}++, {self.place} += {LINE_BYTES}"
        with self.p.braces(f"for ({head})"):
            self.p.line(f"__builtin_prefetch({self.place}, 0, 3);")


def _ceildiv(count: int | str, size: int | str) -> str:
    """How many blocks of a size, a number or a name, cover a count."""
    if is_integer(str(count)) and is_integer(str(size)):
        return str(-(-int(count) // int(size)))
    if str(size) == "1":
        return str(count)
    round_up = f"{int(size) - 1}" if is_integer(str(size)) else f"{size} - 1"
    return f"({wrap(str(count), 12)} + {round_up}) / {size}"


@dataclass(frozen=True)
class _Tiles:
    """Prints one product through the tile registers of a matrix unit."""

    p: FunctionPrinter
    unit: MatrixUnit
    kind: str
    product: _Product

    def print(self) -> None:
        """Block by block of the columns that the registers hold at once."""
        width = self.unit.block[1] * self.unit.columns
        for start in range(0, self.product.columns, width):
            columns = min(width, self.product.columns - start)
            part = self._at("0", str(start), columns=columns)
            (part if start == 0 else part._with(distances=()))._whole()

    def _with(self, **changes: Any) -> _Tiles:
        return replace(self, product=replace(self.product, **changes))

    def _at(self, row: str, column: str, **changes: Any) -> _Tiles:
        """What begins at a row and a column of the sums."""
        whole = self.product
        return self._with(
            lhs=whole.lhs.moved(row, "0"),
            rhs=whole.rhs.moved("0", column),
            target=whole.target.moved(row, column),
            **changes,
        )

    def _whole(self) -> None:
        """Whole steps of k, then a shorter one."""
        depth, step = self.product.depth, self.unit.depth
        if not is_integer(depth):
            self._steps("0", f"{depth} / {step} * {step}", False)
            with self.p.braces(f"if ({depth} % {step} != 0)"):
                self._last_step(f"{depth} / {step} * {step}", f"{depth} % {step}", True)
            return
        whole, rest = int(depth) - int(depth) % step, int(depth) % step
        if whole:
            self._whole_steps(whole)
        if rest:
            self._last_step(str(whole), str(rest), whole > 0)

    def _whole_steps(self, end: int) -> None:
        """All at once, or in blocks of k that all rows pass before the next block."""
        p, height = self.p, self.unit.block[0] * self.unit.rows
        block = (self.product.block or 0) // self.unit.depth * self.unit.depth
        if not block or block >= end or self.product.most_rows <= height:
            self._steps("0", str(end), False)
            return
        some, first, last = p.names.new("block"), p.names.new("k"), p.names.new("end")
        rows = self.product.rows
        p.line(f"const int64_t {some} = {rows} > {height} ? {block} : {end};")
        with p.braces(f"for (int64_t {first} = 0; {first} < {end}; {first} += {some})"):
            p.line(f"const int64_t {last} = {least([str(end), f'{first} + {some}'])};")
            self._steps(first, last, True)

    def _steps(self, first: str, end: str, may_resume: bool) -> None:
        """Whole steps from `first` to `end`; sums begin at zero, or go on if `first` is not 0."""
        p, step = self.p, self.unit.depth
        streams = self._streams(first)

        def emit(part: _Tiles, height: int) -> None:
            part._begin(height, f"{first} == 0" if may_resume else "")
            p.names.push()
            k = p.names.new("k")
            with p.braces(f"for (int64_t {k} = {first}; {k} < {end}; {k} += {step})"):
                for stream in streams:
                    stream.step()
                part._step(height, k)
            p.names.pop()
            part._move("store", height)

        self._by_rows(str(step), emit)

    def _begin(self, height: int, is_first: str) -> None:
        """Sums of zero; those stored before where the condition `is_first` does not hold."""
        if not is_first:
            self._zero(height)
            return
        with self.p.braces(f"if ({is_first})", "} else {"):
            self._zero(height)
        with self.p.braces_continued():
            self._move("load", height)

    def _last_step(self, first: str, depth: str, resumes: bool) -> None:
        """One step of fewer words, added to the sums stored before it, if there are any."""

        def emit(part: _Tiles, height: int) -> None:
            if resumes:
                part._move("load", height)
            else:
                part._zero(height)
            part._step(height, first)
            part._move("store", height)

        self._by_rows(depth, emit)

    def _streams(self, first: str) -> list[_Stream]:
        """What to ask for while steps from `first` on run: of each step's lines, every block of
        rows asks for its share."""
        product, blocks = self.product, "1"
        height = self.unit.block[0] * self.unit.rows
        if product.distances and product.most_rows > height:
            blocks = _ceildiv(product.rows, height)
            if not is_integer(blocks):
                name = self.p.names.new("blocks")
                self.p.line(f"const int64_t {name} = {blocks};")
                blocks = name
        return [_Stream.of(self, first, distance, blocks) for distance in product.distances]

    def _by_rows(self, depth: str, emit: Callable[[_Tiles, int], None]) -> None:
        """Code for the rows that the registers hold at once, in a loop where there may be more."""
        height = self.unit.block[0] * self.unit.rows
        if self.product.most_rows <= height:
            self._shape(depth)
            self._by_height(lambda tiles: emit(self, tiles))
            return
        p, rows = self.p, self.product.rows
        p.names.push()
        first, some = p.names.new("i"), p.names.new("rows")
        with p.braces(f"for (int64_t {first} = 0; {first} < {rows}; {first} += {height})"):
            p.line(f"const int64_t {some} = {least([str(height), f'{rows} - {first}'])};")
            part = self._at(first, "0", rows=some, most_rows=height)
            part._shape(depth)
            part._by_height(lambda tiles: emit(part, tiles))
        p.names.pop()

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
        for row in range(height):
            self._transfer("load", self._left(row), lhs, (row, 0))
        for column in range(self._width):
            self._transfer("load", self._right(column), rhs, (0, column))
        for row, column in self._sums(height):
            self._emit(
                f"dot.{self.kind}", self._sum(row, column), self._left(row), self._right(column)
            )

    def _transfer(
        self, direction: str, register: str, matrix: _Matrix, tile: tuple[int, int]
    ) -> None:
        row, column = tile[0] * self.unit.rows, tile[1] * self.unit.columns
        place = matrix.place(str(row), str(column))
        self._emit(direction, register, f"&{place}", matrix.row_bytes)

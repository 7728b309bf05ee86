"""Products of many rows with weights of few bits: unpacked once for a block of rows.

parallel n0:
  parallel i in blocks of R rows:
    total[i_in, j] = bias
    sequential g:                                 # the next group only when all rows passed one
      steps[u * planes + p, j] = (w[n0, g * words + u, j] >> p * bits) & mask, less the offset
      total[i_in, j] += float(sum over d of dot(steps[d, j], x[i, g, d])) * scales
    y[i, n0, j] = activation(total[i_in, j]) + residual

The sum over d is a product of matrices: `tensorize` leaves it to a matrix unit. The schedule's
`tile(i, R)` gives the rows of a block.

Without a matrix unit (`tile(i, R)` and no `tensorize`) totals stay in registers, so all groups of a
panel are unpacked before its rows come; codes stay unsigned, as vector instructions want them:

parallel n0:
  codes[u * planes + p, j] = (w[n0, u, j] >> p * bits) & mask
  parallel i in blocks of R rows: parallel i_in: parallel j:
    acc = bias
    reduce g: acc += float(sum over d of dot(codes[g * B + d, j], x[i, g, d]) - offset) * scales
    y[i, n0, j] = activation(acc) + residual

Rows that are left of whole blocks of UNPACKED_ROWS go straight from packed codes (`few_bits.py`);
sums are equal, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xdsl.dialects import arith
from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType, f32, i32
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from kaoken.dialect.kaoken_loop import DotKind, DotOp, ViewOp
from kaoken.dialect.nn import BLOCK_EXTRA
from kaoken.passes.lowering.few_bits import (
    FewBitsBuffers,
    Read,
    add_group,
    code_words,
    offset_of,
    signed_steps,
    sum_of_groups,
)
from kaoken.passes.lowering.kernel import Kernel, as_f32
from kaoken.passes.lowering.nest import Extent, Index

UNPACKED_ROWS = 8
"""Of fewer rows the time is that of reading the weight, which packed codes keep short."""

At = tuple[SSAValue, SSAValue]
"""A panel and a column in it."""


def whole_rows(rows: Index) -> Extent:
    """The rows that unpacked codes are for: whole blocks of UNPACKED_ROWS."""
    return Extent.of(rows).floordiv(UNPACKED_ROWS).times(UNPACKED_ROWS)


@dataclass(frozen=True)
class Unpacked:
    """One linear layer whose codes are unpacked before they are multiplied."""

    kernel: Kernel
    buffers: FewBitsBuffers
    rows: Index
    block: int
    """The most rows that pass a group together."""
    width: int
    """Columns of a panel."""
    start: Callable[[At], SSAValue]
    """What the sum of a column begins with."""
    finish: Callable[[SSAValue, At, SSAValue], None]
    """Store the result of a row and a column."""
    read: Callable[[At], Read]
    """How buffers in panels are read for a column."""


@dataclass(frozen=True)
class UnpackedPanels(Unpacked):
    """A panel at once, for vector instructions."""

    def lower(self, panels: int) -> None:
        kernel, b = self.kernel, self.buffers
        block = math.gcd(self.block, UNPACKED_ROWS)
        with kernel.parallel("n0", panels) as panel:
            codes = kernel.alloc(MemRefType(i32, [b.groups * b.block_words, self.width]), "codes")
            self._unpack(panel, codes)
            with (
                kernel.parallel("i", whole_rows(self.rows), step=block) as first,
                kernel.parallel("i_in", block) as row,
                kernel.parallel("j", self.width) as lane,
            ):
                i, at = kernel.affine(lambda a, b: a + b, first, row), (panel, lane)

                def total(g: SSAValue) -> SSAValue:
                    return self._sum(codes, i, g, lane)

                value = sum_of_groups(kernel, b, i, self.start(at), self.read(at), total)
                self.finish(i, at, value)

    def _unpack(self, panel: SSAValue, target: SSAValue) -> None:
        """The codes of a panel, four in a word, times the format's step."""
        kernel, b = self.kernel, self.buffers
        planes, size, step = b.format.planes, b.format.chunk_words, b.format.step
        with kernel.parallel("u", b.groups * b.chunks) as u, kernel.parallel("j", self.width) as j:

            def word(i: int) -> SSAValue:
                at = kernel.affine(lambda u: u * size + i, u)
                return self.read((panel, j))(b.w, at)

            for plane, codes in enumerate(code_words(kernel, b.format, word)):
                if step != 1:
                    codes = kernel.insert(arith.MuliOp(codes, kernel.constant(step, i32)))
                at = kernel.affine(lambda u, plane=plane: u * planes + plane, u)
                kernel.store(codes, target, at, j)

    def _sum(self, codes: SSAValue, i: SSAValue, g: SSAValue, lane: SSAValue) -> SSAValue:
        """The exact sum of a group of a row, which begins with what the offset adds."""
        kernel, b = self.kernel, self.buffers
        zero = kernel.constant(0, i32)
        start = offset_of(kernel, b, i, g) if b.format.offset else zero

        def step(d: SSAValue, acc: SSAValue) -> SSAValue:
            at = kernel.affine(lambda g, d: g * b.block_words + d, g, d)
            word, inputs = kernel.load(codes, at, lane), kernel.load(b.x, i, g, d)
            return kernel.insert(DotOp(DotKind.UI7_I8, word, inputs, acc))

        return kernel.fold("d", b.block_words, start, step)


@dataclass(frozen=True)
class UnpackedGroups(Unpacked):
    """A group at a time, for a matrix unit."""

    def lower(self, panels: int) -> None:
        kernel, b = self.kernel, self.buffers
        with kernel.parallel("n0", panels) as panel:
            steps = kernel.alloc(MemRefType(i32, [b.block_words, self.width]), "steps")
            totals = kernel.alloc(MemRefType(f32, [self.block, self.width]), "total")
            names = ["scale"] if b.minimum is None else ["scale", "minimum"]
            numbers = [kernel.alloc(MemRefType(f32, [self.width]), name) for name in names]
            with kernel.parallel("i", whole_rows(self.rows), step=self.block) as first:
                with self._each("row", first) as (_, row, lane):
                    kernel.store(self.start((panel, lane)), totals, row, lane)

                def group(g: SSAValue, _: list[SSAValue]) -> Sequence[SSAValue]:
                    self._unpack(panel, g, steps)
                    self._unpack_numbers(panel, g, numbers)
                    self._add(g, first, steps, numbers, totals)
                    return []

                kernel.reduce("g", b.groups, [], group)
                with self._each("row", first) as (i, row, lane):
                    self.finish(i, (panel, lane), kernel.load(totals, row, lane))

    @contextmanager
    def _each(self, name: str, first: SSAValue) -> Iterator[tuple[SSAValue, SSAValue, SSAValue]]:
        """Loops over the rows of a block and the columns of a panel; gives the row, also as counted
        from the block's first, and the column."""
        kernel = self.kernel
        with kernel.parallel(name, self._rows_left(first)) as row:
            i = kernel.affine(lambda a, b: a + b, first, row)
            with kernel.parallel("j", self.width) as lane:
                yield i, row, lane

    def _rows_left(self, first: SSAValue) -> Extent:
        """The rows of the block that begins at a row."""
        whole = whole_rows(self.rows)
        if (count := whole.constant) is not None and (
            count <= self.block or not count % self.block
        ):
            return Extent.of(min(count, self.block))
        left = whole.map.results[0] - AffineExpr.dimension(0)
        bounds = (AffineExpr.constant(self.block), left)
        return Extent(AffineMap(1, whole.map.num_symbols, bounds), (first, *whole.operands))

    def _unpack(self, panel: SSAValue, g: SSAValue, steps: SSAValue) -> None:
        """The codes of a group of a panel, as signed bytes."""
        kernel, b = self.kernel, self.buffers
        planes = b.format.planes
        with kernel.parallel("u", b.chunks) as u, kernel.parallel("j", self.width) as lane:

            def word(at: int) -> SSAValue:
                return self.read((panel, lane))(b.w, b.place(kernel, g, u, at))

            for plane, codes in enumerate(code_words(kernel, b.format, word)):
                at = kernel.affine(lambda u, plane=plane: u * planes + plane, u)
                kernel.store(signed_steps(kernel, b.format, codes), steps, at, lane)

    def _unpack_numbers(self, panel: SSAValue, g: SSAValue, numbers: list[SSAValue]) -> None:
        """The scales, and minima, of a group of a panel, as floats."""
        kernel, b = self.kernel, self.buffers
        sources = [b.scale] if b.minimum is None else [b.scale, b.minimum]
        with kernel.parallel("j", self.width) as lane:
            read = self.read((panel, lane))
            for at, (source, target) in enumerate(zip(sources, numbers, strict=True)):
                value = as_f32(kernel, read(source, g))
                if b.supers is not None:
                    groups, count = b.format.groups_of_super, len(sources)
                    place = kernel.affine(lambda g, at=at: g // groups * count + at, g)
                    factor = as_f32(kernel, read(b.supers, place))
                    value = kernel.insert(arith.MulfOp(value, factor))
                kernel.store(value, target, lane)

    def _add(
        self,
        g: SSAValue,
        first: SSAValue,
        steps: SSAValue,
        numbers: list[SSAValue],
        totals: SSAValue,
    ) -> None:
        """What an unpacked group is worth, to the totals of all rows of the block."""
        kernel, b = self.kernel, self.buffers
        block = b.block_words + BLOCK_EXTRA
        x = kernel.insert(ViewOp(b.x, MemRefType(i32, [DYNAMIC_INDEX, b.groups * block])))
        with self._each("i_in", first) as (i, row, lane):

            def step(d: SSAValue, acc: SSAValue) -> SSAValue:
                at = kernel.affine(lambda g, d: g * block + d, g, d)
                inputs = kernel.load(x, i, at)
                return kernel.insert(DotOp(DotKind.I8_I8, kernel.load(steps, d, lane), inputs, acc))

            total = kernel.fold("d", b.block_words, kernel.constant(0, i32), step)
            scale, *minimum = (kernel.load(source, lane) for source in numbers)
            both = scale, minimum[0] if minimum else None
            acc = add_group(kernel, b, (i, g), kernel.load(totals, row, lane), total, both)
            kernel.store(acc, totals, row, lane)

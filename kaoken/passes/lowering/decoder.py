"""Nests of decoders: rotary positions, and rows that go into caches and come out.

parallel m:                       # append to a cache in panels: 64 keys side by side
  parallel g, h: cache[g, (past + m) / 64, h, (past + m) % 64] = x[m, g * 64 + h]
"""

from __future__ import annotations

from collections.abc import Callable

from xdsl.dialects import arith
from xdsl.dialects.builtin import i64
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from kaoken.dialect.decoder import PANEL, CacheAppendOp, CacheReadOp, CacheType, RopeOp, cache_type
from kaoken.dialect.dims import Dim
from kaoken.passes.lowering.attention_plan import columns_of
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Extent, Index, Nest


def extent(
    function: Callable[..., AffineExpr | tuple[AffineExpr, ...]], *operands: Index
) -> Extent:
    """A loop bound that is an affine function of indices; several results count as the least."""
    values = tuple(v for v in operands if isinstance(v, SSAValue))
    dims = iter(AffineExpr.dimension(i) for i in range(len(values)))
    arguments = [
        next(dims) if isinstance(v, SSAValue) else AffineExpr.constant(v) for v in operands
    ]
    results = function(*arguments)
    results = results if isinstance(results, tuple) else (results,)
    return Extent(AffineMap(len(values), 0, results), values)


def cache_buffer(kernel: Kernel, name: str, cache: SSAValue) -> SSAValue:
    """A kernel argument for the memory of a cache."""
    type_ = cache_type(cache)
    shape = tuple(map(Dim.of, type_.memory_shape))
    return kernel.buffer(name, cache, shape, element=type_.element_type)


def cache_place(n: Nest, type_: CacheType, head: Index, row: Index, number: Index) -> list[Index]:
    """Where the memory of a cache holds one number."""
    if type_.layout.data == "rows":
        return [head, row, number]
    row = n.index(row)
    panel, lane = n.affine(lambda r: r // PANEL, row), n.affine(lambda r: r % PANEL, row)
    return [head, panel, number, lane]


def lower_cache_append(op: CacheAppendOp, kernel: Kernel) -> None:
    type_ = cache_type(op.cache)
    size, capacity = type_.head_size.data, type_.capacity.data
    kernel.name = f"append_{type_.layout.data}_{type_.heads.data}x{size}"
    kernel.comment = f"rows of {type_.width} behind those of a cache of {capacity}"
    part = columns_of(op.input)
    _, tokens, width = kernel.shape(part.source)
    x = kernel.buffer("x", part.source, (tokens, width))
    memory = cache_buffer(kernel, "cache", op.cache)
    start = kernel.size("start", op.start.data[0])
    count = kernel.size("tokens", tokens)
    _check_room(kernel, start, count, capacity)
    fitting = extent(lambda start, count: (count, start * -1 + capacity), start, count)
    with (
        kernel.parallel("m", fitting) as m,
        kernel.parallel("g", type_.heads.data) as g,
        kernel.parallel("h", size) as h,
    ):
        column = kernel.affine(lambda g, h: g * size + h + part.offset, g, h)
        row = kernel.add_index(m, start)
        kernel.store(kernel.load(x, m, column), memory, *cache_place(kernel, type_, g, row, h))


def _check_room(kernel: Kernel, start: Index, count: Index, capacity: int) -> None:
    """Tell in the status how many rows there would be, where they are too many."""
    status = kernel.status()
    code = kernel.add_error(f"the context holds at most {capacity} tokens, not these")
    total = kernel.index(kernel.add_index(start, count))
    with kernel.when(kernel.insert(arith.CmpiOp(total, kernel.index(capacity), "sgt"))):
        kernel.store(kernel.constant(code, i64), status, 0)
        kernel.store(kernel.insert(arith.IndexCastOp(total, i64)), status, 1)


def lower_cache_read(op: CacheReadOp, kernel: Kernel) -> None:
    """A copy; attention reads caches without one."""
    type_ = cache_type(op.cache)
    size = type_.head_size.data
    kernel.name = f"read_{type_.layout.data}_{type_.heads.data}x{size}"
    kernel.comment = "the first rows of a cache"
    memory = cache_buffer(kernel, "cache", op.cache)
    _, tokens, width = kernel.shape(op.result)
    y = kernel.buffer("y", op.result, (tokens, width))
    with (
        kernel.parallel("m", kernel.size("tokens", tokens)) as m,
        kernel.parallel("g", type_.heads.data) as g,
        kernel.parallel("h", size) as h,
    ):
        value = kernel.load(memory, *cache_place(kernel, type_, g, m, h))
        kernel.store(value, y, m, kernel.affine(lambda g, h: g * size + h, g, h))


def lower_rope(op: RopeOp, kernel: Kernel) -> None:
    size, pairs = op.head_size, op.pairs
    kernel.name = f"rope_{op.heads}x{size}"
    kernel.comment = f"rotation of {2 * pairs} numbers of {op.heads} heads by the position"
    part = columns_of(op.input)
    batch, tokens, width = kernel.shape(part.source)
    x = kernel.buffer("x", part.source, (batch * tokens, width))
    tables = kernel.buffer("cos", op.cos), kernel.buffer("sin", op.sin)
    y = kernel.buffer("y", op.result, (batch * tokens, kernel.shape(op.result)[2]))
    count = kernel.size("tokens", tokens)
    rotation = _Rotation(op, kernel, x, y, tables, part.offset)

    def rows(first: Index) -> None:
        with kernel.parallel("m", count) as m, kernel.parallel("head", op.heads) as head:
            rotation.head(kernel.add_index(first, m), m, head)

    if batch == Dim.of(1):
        rows(0)
        return
    with kernel.parallel("b", kernel.size("batch", batch)) as b:
        rows(kernel.multiply_index(b, count))


class _Rotation:
    """The body of a rotation's loops over rows and heads."""

    def __init__(
        self,
        op: RopeOp,
        kernel: Kernel,
        x: SSAValue,
        y: SSAValue,
        tables: tuple[SSAValue, SSAValue],
        offset: int,
    ):
        self.n, self.x, self.y, self.tables, self.offset = kernel, x, y, tables, offset
        self.size, self.pairs = op.head_size, op.pairs
        self.interleaved = bool(op.interleaved.value.data)

    def head(self, row: Index, token: SSAValue, head: SSAValue) -> None:
        n = self.n
        with n.parallel("h", self.pairs) as p:
            places = self._places(p)
            a, b = (self._load(row, head, at) for at in places)
            cos, sin = (n.load(table, token, p) for table in self.tables)
            first = self._difference(a, cos, b, sin)
            second = n.insert(
                arith.AddfOp(n.insert(arith.MulfOp(b, cos)), n.insert(arith.MulfOp(a, sin)))
            )
            for value, at in zip((first, second), places, strict=True):
                n.store(value, self.y, row, self._column(head, at, 0))
        if rest := self.size - 2 * self.pairs:
            with n.parallel("h", rest) as h:
                at = n.affine(lambda h: h + 2 * self.pairs, h)
                value = self._load(row, head, at)
                n.store(value, self.y, row, self._column(head, at, 0))

    def _places(self, p: SSAValue) -> tuple[SSAValue, SSAValue]:
        """The two numbers of pair p within a head."""
        if self.interleaved:
            return self.n.affine(lambda p: p * 2, p), self.n.affine(lambda p: p * 2 + 1, p)
        return p, self.n.affine(lambda p: p + self.pairs, p)

    def _difference(self, a: SSAValue, cos: SSAValue, b: SSAValue, sin: SSAValue) -> SSAValue:
        n = self.n
        return n.insert(
            arith.SubfOp(n.insert(arith.MulfOp(a, cos)), n.insert(arith.MulfOp(b, sin)))
        )

    def _column(self, head: SSAValue, number: SSAValue, offset: int) -> SSAValue:
        return self.n.affine(lambda head, d: head * self.size + d + offset, head, number)

    def _load(self, row: Index, head: SSAValue, number: SSAValue) -> SSAValue:
        return self.n.load(self.x, row, self._column(head, number, self.offset))

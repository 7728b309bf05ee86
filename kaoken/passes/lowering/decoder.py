"""Nests of decoders: rotary positions, and rows that go into caches and come out.

parallel m:                       # append to a cache in panels: 64 keys side by side
  parallel g, h: cache[g, (past + m) / 64, h, (past + m) % 64] = x[m, g * 64 + h]

parallel m: parallel g:           # to a cache of i8
  largest = max over h of |x[m, g * 64 + h]|
  scales[g, (past + m) / 64, (past + m) % 64] = largest / 127
  parallel h: cache[...] = round(x[m, g * 64 + h] / scale)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import f32, i64
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from kaoken.dialect.decoder import PANEL, CacheAppendOp, CacheReadOp, CacheType, RopeOp, cache_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.kaoken_loop import ConvertOp
from kaoken.dialect.quant import LEAST_SCALE, LIMIT
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


@dataclass(frozen=True)
class CacheMemory:
    """A cache's memory as arguments of a kernel."""

    n: Nest
    type: CacheType
    numbers: SSAValue
    scales: SSAValue | None

    @staticmethod
    def of(kernel: Kernel, name: str, cache: SSAValue) -> CacheMemory:
        """Adds the arguments."""
        type_ = cache_type(cache)
        shape = tuple(map(Dim.of, type_.memory_shape))
        numbers = kernel.buffer(name, cache, shape, element=type_.element_type)
        if not type_.has_scales:
            return CacheMemory(kernel, type_, numbers, None)
        shape, at = tuple(map(Dim.of, type_.scales_shape)), type_.scales_offset
        scales = kernel.buffer(f"{name}_scales", cache, shape, element=f32, offset=at)
        return CacheMemory(kernel, type_, numbers, scales)

    def number(self, *at: Index) -> SSAValue:
        """The number at a place, as f32, without its scale."""
        value = self.n.load(self.numbers, *at)
        return value if value.type == f32 else self.n.insert(ConvertOp(value, f32))

    def scaled(self, value: SSAValue, *at: Index) -> SSAValue:
        """A value times the scale of head, panel and lane, where there are scales."""
        if self.scales is None:
            return value
        return self.n.insert(arith.MulfOp(value, self.n.load(self.scales, *at)))

    def append(self, head: SSAValue, row: Index, load: Callable[[SSAValue], SSAValue]) -> None:
        """Keep the numbers `load` gives as a head of a row."""
        n, size = self.n, self.type.head_size.data
        inverse = None if self.scales is None else self._append_scale(self.scales, head, row, load)
        with n.parallel("h", size) as h:
            value = load(h)
            if inverse is not None:
                value = n.insert(arith.MulfOp(value, inverse))
            if value.type != self.type.element_type:
                value = n.insert(ConvertOp(value, self.type.element_type))
            n.store(value, self.numbers, *self._place(head, row, h))

    def _append_scale(
        self, scales: SSAValue, head: SSAValue, row: Index, load: Callable[[SSAValue], SSAValue]
    ) -> SSAValue:
        """Keep the scale of a head of a row; gives one over it."""
        n = self.n

        def larger(h: SSAValue, acc: SSAValue) -> SSAValue:
            return n.insert(arith.MaximumfOp(acc, n.insert(math.AbsFOp(load(h)))))

        largest = n.fold("h", self.type.head_size.data, n.constant(0.0, f32), larger)
        scale = n.insert(arith.MulfOp(largest, n.constant(1 / LIMIT, f32)))
        scale = n.insert(arith.MaximumfOp(scale, n.constant(LEAST_SCALE, f32)))
        n.store(scale, scales, head, *_panel_and_lane(n, row))
        return n.insert(arith.DivfOp(n.constant(1.0, f32), scale))

    def row(self, head: SSAValue, row: SSAValue, number: SSAValue) -> SSAValue:
        """A number of a row, as f32."""
        value = self.number(*self._place(head, row, number))
        return self.scaled(value, head, *_panel_and_lane(self.n, row))

    def _place(self, head: Index, row: Index, number: Index) -> list[Index]:
        if self.type.layout.data == "rows":
            return [head, row, number]
        panel, lane = _panel_and_lane(self.n, row)
        return [head, panel, number, lane]


def _panel_and_lane(n: Nest, row: Index) -> tuple[SSAValue, SSAValue]:
    row = n.index(row)
    return n.affine(lambda r: r // PANEL, row), n.affine(lambda r: r % PANEL, row)


def lower_cache_append(op: CacheAppendOp, kernel: Kernel) -> None:
    type_ = cache_type(op.cache)
    size, capacity = type_.head_size.data, type_.capacity.data
    kernel.name = f"append_{type_.layout.data}_{type_.heads.data}x{size}"
    kernel.comment = f"rows of {type_.width} behind those of a cache of {capacity}"
    part = columns_of(op.input)
    _, tokens, width = kernel.shape(part.source)
    x = kernel.buffer("x", part.source, (tokens, width))
    memory = CacheMemory.of(kernel, "cache", op.cache)
    start = kernel.size("start", op.start.data[0])
    count = kernel.size("tokens", tokens)
    _check_room(kernel, start, count, capacity)
    fitting = extent(lambda start, count: (count, start * -1 + capacity), start, count)
    with kernel.parallel("m", fitting) as m, kernel.parallel("g", type_.heads.data) as g:

        def load(h: SSAValue) -> SSAValue:
            column = kernel.affine(lambda g, h: g * size + h + part.offset, g, h)
            return kernel.load(x, m, column)

        memory.append(g, kernel.add_index(m, start), load)


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
    memory = CacheMemory.of(kernel, "cache", op.cache)
    _, tokens, width = kernel.shape(op.result)
    y = kernel.buffer("y", op.result, (tokens, width))
    with (
        kernel.parallel("m", kernel.size("tokens", tokens)) as m,
        kernel.parallel("g", type_.heads.data) as g,
        kernel.parallel("h", size) as h,
    ):
        kernel.store(memory.row(g, m, h), y, m, kernel.affine(lambda g, h: g * size + h, g, h))


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

"""Attention over caches by parts of 512 keys: which of them tokens see, how they are put together.

`cached_attention.py` says what the kernels look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import MemRefType, f32
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr

from kaoken.dialect.attributes import ScheduleAttr
from kaoken.dialect.base import tensor_type
from kaoken.dialect.decoder import PANEL, CacheReadOp, cache_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp
from kaoken.passes.lowering.attention_plan import power
from kaoken.passes.lowering.decoder import extent
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Extent, Index, Span
from kaoken.passes.lowering.rows import LOWEST

PART_PANELS = 8
PART = PART_PANELS * PANEL
"""Keys of a part."""
FEW = 8
"""Up to so many tokens, threads divide the parts among themselves; of more, the tokens."""


class Sizes:
    """The sizes of an op's kernels."""

    def __init__(self, op: AttentionOp):
        self.op = op
        self.heads, self.kv_heads = op.heads, op.kv_heads
        self.group = op.heads // op.kv_heads
        self.size = tensor_type(op.query).get_shape()[-1] // op.heads
        self.value_size = tensor_type(op.value).get_shape()[-1] // op.kv_heads
        self.window = None if op.window is None else op.window.value.data
        schedule = op.schedule or ScheduleAttr(())
        tiles = {d.args[0]: int(d.args[1]) for d in schedule.all("tile")}
        self.tokens, self.heads_at_once = tiles.get("i", 1), tiles.get("r", 1)
        self.width = next((int(d.args[0]) for d in schedule.all("panel")), PANEL)

    @property
    def tiles(self) -> int:
        """Tiles of tokens of few tokens."""
        return -(-FEW // self.tokens)

    @property
    def parts(self) -> int:
        """The most parts that the tokens of a tile see."""
        read = self.op.key.owner
        assert isinstance(read, CacheReadOp)
        whole = -(-cache_type(read.cache).capacity.data // PART)
        return whole if self.window is None else min(whole, self.window_parts)

    @property
    def window_parts(self) -> int:
        assert self.window is not None
        return -(-(self.window + self.tokens - 1) // PART) + 1

    def shared_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of what threads share of few tokens: the parts' sums of values, tops and totals."""
        each = (self.tiles, self.kv_heads, self.parts, self.tokens, self.group)
        return (*each, self.value_size), each, each


def shared_types(op: AttentionOp) -> list[MemRefType]:
    """The buffers between the two kernels of an op."""
    return [MemRefType(f32, shape) for shape in Sizes(op).shared_shapes()]


@dataclass
class Partial:
    """Memory for parts: their place is behind the indices `at`."""

    sums: SSAValue
    tops: SSAValue
    totals: SSAValue
    at: tuple[SSAValue, ...] = ()


@dataclass
class Tile:
    """Some tokens, from `i` on, and a key head; the parts first .. last that they see."""

    i: SSAValue
    tokens: Extent
    g: SSAValue
    end: SSAValue
    """The first key that none of the tokens sees."""
    first: SSAValue
    last: SSAValue


class PartsOfKeys:
    """What both kernels have: sizes, the memory of parts, and how these are put together."""

    def __init__(self, sizes: Sizes, op: AttentionOp, kernel: Kernel, shared: Sequence[SSAValue]):
        self.sizes, self.op, self.n = sizes, op, kernel
        _, queries, _ = kernel.shape(op.query)
        self.queries = kernel.size("queries", queries)
        self.keys_read = kernel.size("keys_read", kernel.shape(op.key)[1])
        sums, tops, totals = [
            kernel.buffer(name, op.result, tuple(map(Dim.of, shape)), buffer, f32)
            for name, shape, buffer in zip(
                ("sums", "tops", "totals"), sizes.shared_shapes(), shared, strict=True
            )
        ]
        self.shared = Partial(sums, tops, totals)
        self.y = by_heads(kernel, "y", op.result, sizes.value_size)

    def is_few(self) -> SSAValue:
        return less(self.n, self.queries, FEW + 1)

    def tile(self, number: SSAValue, g: SSAValue) -> Tile:
        """Tile `number` of the tokens."""
        n, s = self.n, self.sizes
        i = n.affine(lambda number: number * s.tokens, number)
        most = AffineExpr.constant(s.tokens)
        left = extent(lambda i, queries: (most, queries - i), i, self.queries)
        tokens = Extent.of(1) if s.tokens == 1 else left
        end = n.index(self.keys_read)
        if self.op.causal.value.data:
            end = n.insert(arith.MinSIOp(self._seen(i, s.tokens), end))
        last = n.affine(lambda end: end.ceil_div(PART), end)
        return Tile(i, tokens, g, end, self._first_part(i), last)

    def _seen(self, i: SSAValue, more: int = 1) -> SSAValue:
        """How many keys query i + more - 1 sees."""
        return self.n.affine(lambda i, k, q: i + k - q + more, i, self.keys_read, self.queries)

    def seen(self, tile: Tile, t: SSAValue) -> SSAValue:
        """How many keys token t of a tile sees."""
        if not self.op.causal.value.data:
            return tile.end
        return self.n.affine(
            lambda i, t, k, q: i + t + k - q + 1, tile.i, t, self.keys_read, self.queries
        )

    def begin(self, i: SSAValue) -> SSAValue:
        """The first key in the window of query i; a key before the first means that one."""
        assert self.sizes.window is not None
        return self._seen(i, 1 - self.sizes.window)

    def _first_part(self, i: SSAValue) -> SSAValue:
        zero = self.n.index(0)
        if self.sizes.window is None:
            return zero
        part = self.n.affine(lambda begin: begin // PART, self.begin(i))
        return self.n.insert(arith.MaxSIOp(part, zero))

    def combine(self, parts: Partial, tile: Tile, t: SSAValue, r: SSAValue) -> None:
        """What token t and query head r of the tile get from all parts."""
        n, s = self.n, self.sizes
        weights = n.alloc(MemRefType(f32, [s.parts]), "weights")
        span = Span(n.index(0), n.insert(arith.SubiOp(tile.last, tile.first)))
        zero = n.constant(0.0, f32)

        def top(c: SSAValue) -> SSAValue:
            return n.load(parts.tops, *parts.at, c, t, r)

        largest = n.fold(
            "c",
            span,
            n.constant(LOWEST, f32),
            lambda c, acc: n.insert(arith.MaximumfOp(acc, top(c))),
        )

        def weigh(c: SSAValue, acc: SSAValue) -> SSAValue:
            weight = power(self.op, n, n.insert(arith.SubfOp(top(c), largest)))
            n.store(weight, weights, c)
            return n.insert(math.FmaOp(weight, n.load(parts.totals, *parts.at, c, t, r), acc))

        total = n.fold("c", span, zero, weigh)
        inverse = n.insert(arith.DivfOp(n.constant(1.0, f32), total))
        row = n.affine(lambda i, t: i + t, tile.i, t)
        head = n.affine(lambda g, r: g * s.group + r, tile.g, r)
        with n.parallel("lane", s.value_size) as e:

            def add(c: SSAValue, acc: SSAValue) -> SSAValue:
                part = n.load(parts.sums, *parts.at, c, t, r, e)
                return n.insert(math.FmaOp(n.load(weights, c), part, acc))

            n.store(
                n.insert(arith.MulfOp(n.fold("c", span, zero, add), inverse)), self.y, row, head, e
            )


def by_heads(kernel: Kernel, name: str, value: SSAValue, size: int) -> SSAValue:
    """A kernel argument for rows of heads, [tokens, heads, size]."""
    _, tokens, width = kernel.shape(value)
    heads = width.divide(Dim.of(size))
    assert heads is not None
    return kernel.buffer(name, value, (tokens, heads, Dim.of(size)))


def less(n: Kernel, a: Index, b: Index) -> SSAValue:
    return n.insert(arith.CmpiOp(n.index(a), n.index(b), "slt"))


def both(n: Kernel, a: SSAValue, b: SSAValue) -> SSAValue:
    return n.insert(arith.AndIOp(a, b))

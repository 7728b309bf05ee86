"""Attention that reads keys and values where a cache keeps them, in parts of 512 keys.

    parallel it:                              # few tokens: a part, key head and tile of tokens
      part(...)
    parallel it:                              # many tokens: a key head and tile of tokens
      parallel c: part(...)
      combine(...)

    part:                                     # t: tokens of the tile, r: query heads of key head g
      parallel j0 in panels of 64 keys:       # only those that a token of the tile sees
        parallel t, r, j1: s[t, r, j] = sum over d of q[t, r, d] * keys[g, j0, d, j1] * scale
                                                # perhaps capped
      s[t, r, j] += bias[r, origin + j - past - t]    # where distances have a bias
      s[t, r, j] = -inf for keys behind the token, and before its window
      s[t, r, :] = exp(s[t, r, :] - top[c, t, r]);  total[c, t, r] = their sum
      parallel t, r, e: o[c, t, r, e] = sum over j of s[t, r, j] * values[g, j, e]

    combine:                                  # in a kernel of its own for few tokens
      w[c] = exp(top[c, t, r] - the largest of them)
      y[t, r, e] = sum over c of w[c] * o[c, t, r, e] / sum over c of w[c] * total[c, t, r]

r are the query heads that share a key head: keys and values are read once for all of them, and for
the tokens of a tile. Parts begin at multiples of 512 keys whoever asks, and keys that a token does
not see add zeros. So a token's result is the same, bit for bit, whichever tokens are in the call,
and however parts are shared among threads. Causal attention sees the tokens up to its own; any
other, such as that of a decoder to its encoder, the whole cache.

Caches of bf16 and i8 are widened in registers. The scale of a key is a factor of its score, that of
a value one of its probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import MemRefType, f32
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr

from kaoken.dialect.base import tensor_type
from kaoken.dialect.decoder import PANEL, CacheReadOp, cache_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp
from kaoken.errors import KaokenError
from kaoken.passes.lowering.attention_plan import (
    bias_buffer,
    columns_of,
    final_score,
    power,
)
from kaoken.passes.lowering.cache_parts import (
    FEW,
    PART,
    PART_PANELS,
    Partial,
    PartsOfKeys,
    Sizes,
    Tile,
    both,
    by_heads,
    less,
)
from kaoken.passes.lowering.decoder import CacheMemory, extent
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Span
from kaoken.passes.lowering.rows import LOWEST

MINUS_INFINITY = float("-inf")
LAYOUTS = ("panels", "rows")
"""How keys and values must lie."""


def reads_caches(op: AttentionOp) -> bool:
    """Whether keys and values are read from caches that lie as this kernel needs them."""
    if op.mask is not None or op.bf16_products is not None:
        return False
    for value, layout in zip((op.key, op.value), LAYOUTS, strict=True):
        read = value.owner
        if not isinstance(read, CacheReadOp) or cache_type(read.cache).layout.data != layout:
            return False
    return _whole_heads(op)


def _whole_heads(op: AttentionOp) -> bool:
    """Whether the rows that hold the queries are heads of one size throughout."""
    part = columns_of(op.query)
    size = tensor_type(op.query).get_shape()[-1] // op.heads
    return part.offset % size == 0 == tensor_type(part.source).get_shape()[-1] % size


@dataclass
class Keys:
    """The keys of a part that a tile sees: `panels` panels from `first` on."""

    first: SSAValue
    panels: Span
    """Counted from `first` on."""
    last: SSAValue
    """How many keys that is, up to the first that no token sees."""


def lower_cached_attention(op: AttentionOp, kernel: Kernel, shared: Sequence[SSAValue]) -> None:
    """The kernel that works on parts; `shared` are the caller's buffers of `shared_types`."""
    sizes = Sizes(op)
    kernel.name = f"cached_attention_{op.heads}x{sizes.size}"
    kind = "causal " if op.causal.value.data else ""
    kernel.comment = f"{kind}softmax(q k^T) v of {op.heads} heads, keys and values from caches"
    p = _Parts(sizes, op, kernel, shared)
    p.of_few_tokens()
    if not isinstance(p.queries, int) or p.queries > FEW:
        p.of_many_tokens()


def lower_combine(op: AttentionOp, kernel: Kernel, shared: Sequence[SSAValue]) -> None:
    """The kernel that puts together the parts of few tokens."""
    sizes = Sizes(op)
    kernel.name = f"combine_parts_{op.heads}x{sizes.size}"
    kernel.comment = "attention of few tokens from that to parts of the keys"
    base = PartsOfKeys(sizes, op, kernel, shared)
    n, heads = kernel, op.heads
    with n.parallel("it", FEW * heads) as it:
        i, h = n.affine(lambda it: it // heads, it), n.affine(lambda it: it % heads, it)
        with n.when(both(n, base.is_few(), less(n, i, base.queries))):
            tokens = sizes.tokens
            number = n.affine(lambda i: i // tokens, i)
            g = n.affine(lambda h: h // sizes.group, h)
            r = n.affine(lambda h: h % sizes.group, h)
            t = n.affine(lambda i: i % tokens, i)
            tile = base.tile(number, g)
            base.shared.at = (number, g)
            base.combine(base.shared, tile, t, r)


class _Parts(PartsOfKeys):
    """The kernel that works on parts."""

    def __init__(self, sizes: Sizes, op: AttentionOp, kernel: Kernel, shared: Sequence[SSAValue]):
        super().__init__(sizes, op, kernel, shared)
        read_keys, read_values = op.key.owner, op.value.owner
        assert isinstance(read_keys, CacheReadOp)
        assert isinstance(read_values, CacheReadOp)
        part = columns_of(op.query)
        if kernel.shape(part.source)[0] != Dim.of(1):
            raise KaokenError("attention over a cache takes one sequence")
        self.q = by_heads(kernel, "q", part.source, sizes.size)
        self.first_head = part.offset // sizes.size
        self.keys = CacheMemory.of(kernel, "keys", read_keys.cache)
        self.values = CacheMemory.of(kernel, "values", read_values.cache)
        capacity = cache_type(read_keys.cache).capacity.data
        most_keys = min(capacity, kernel.shape(op.key)[1].evaluate(kernel.maxima))
        self.bias = bias_buffer(op, kernel, most_keys)
        self.scores = kernel.alloc(MemRefType(f32, [sizes.tokens, sizes.group, PART]), "s")

    def of_few_tokens(self) -> None:
        """Each part by itself, for `combine` to find: those of a key head are neighbours."""
        n, s = self.n, self.sizes
        each = s.kv_heads * s.tiles
        parts = n.affine(lambda k: k.ceil_div(PART), self.keys_read)
        limits = ()
        if s.window is not None:
            parts = n.insert(arith.MinSIOp(parts, n.index(s.window_parts)))
            limits = (AffineExpr.constant(s.window_parts * each),)
        count = extent(lambda k: (k.ceil_div(PART) * each, *limits), self.keys_read)
        with n.parallel("it", count) as it:
            number = n.affine(lambda it: it % s.tiles, it)
            rest = n.affine(lambda it: it // s.tiles, it)
            g = n.insert(arith.DivUIOp(rest, parts))
            c = n.insert(arith.RemUIOp(rest, parts))
            first = n.affine(lambda number: number * s.tokens, number)
            with n.when(both(n, self.is_few(), less(n, first, self.queries))):
                tile = self.tile(number, g)
                part = n.insert(arith.AddiOp(tile.first, c))
                with n.when(less(n, part, tile.last)):
                    self.shared.at = (number, g)
                    self._part(tile, part, c, self.shared)

    def of_many_tokens(self) -> None:
        """All parts of a tile, one after the other, and then what they give together."""
        n, s = self.n, self.sizes
        each = [s.parts, s.tokens, s.group]
        own = Partial(
            n.alloc(MemRefType(f32, [*each, s.value_size]), "own_sums"),
            n.alloc(MemRefType(f32, each), "own_tops"),
            n.alloc(MemRefType(f32, each), "own_totals"),
        )
        count = extent(lambda q: q.ceil_div(s.tokens) * s.kv_heads, self.queries)
        with n.parallel("it", count) as it:
            number = n.affine(lambda it: it // s.kv_heads, it)
            g = n.affine(lambda it: it % s.kv_heads, it)
            with n.when(less(n, FEW, self.queries)):
                tile = self.tile(number, g)
                with n.parallel("part", Span(tile.first, tile.last)) as part:
                    c = n.insert(arith.SubiOp(part, tile.first))
                    self._part(tile, part, c, own)
                with n.parallel("row", tile.tokens) as t, n.parallel("head", s.group) as r:
                    self.combine(own, tile, t, r)

    def _part(self, tile: Tile, part: SSAValue, c: SSAValue, to: Partial) -> None:
        keys = self._keys(tile, part)
        self._scores(tile, keys)
        self._add_bias(tile, keys)
        self._hide(tile, keys)
        self._exponentials(tile, keys, c, to)
        self._sums(tile, keys, c, to)

    def _keys(self, tile: Tile, part: SSAValue) -> Keys:
        """Of a part, the panels that a token of the tile sees."""
        n = self.n
        first = n.affine(lambda part: part * PART_PANELS, part)
        behind = n.affine(lambda part: part * PART_PANELS + PART_PANELS, part)
        end = n.affine(lambda end: end.ceil_div(PANEL), tile.end)
        last = n.insert(arith.MinSIOp(behind, end))
        if self.sizes.window is not None:
            begin = n.affine(lambda begin: begin // PANEL, self.begin(tile.i))
            first = n.insert(arith.MaxSIOp(first, begin))
        count = n.insert(arith.SubiOp(last, first))
        start = n.affine(lambda first: first * PANEL, first)
        past = n.affine(lambda last: last * PANEL, last)
        keys = n.insert(arith.SubiOp(n.insert(arith.MinSIOp(past, tile.end)), start))
        return Keys(first, Span(n.index(0), count), keys)

    @contextmanager
    def _rows(self, tile: Tile) -> Iterator[tuple[SSAValue, SSAValue]]:
        """Loops over a tile's tokens and query heads."""
        n = self.n
        with n.parallel("row", tile.tokens) as t, n.parallel("head", self.sizes.group) as r:
            yield t, r

    @contextmanager
    def _register_tile(
        self, tile: Tile, columns: str, size: int
    ) -> Iterator[tuple[SSAValue, SSAValue, SSAValue]]:
        """Tokens, query heads and `columns`, the innermost of which become a register tile."""
        n, s = self.n, self.sizes
        width = _divisor(size, s.width)
        with (
            _blocks(n, columns, size, width) as column,
            _blocks(n, "r", s.group, s.heads_at_once) as head,
            n.parallel("i_in", tile.tokens) as t,
            n.parallel("r_in", s.heads_at_once) as r,
            n.parallel(f"{columns}_in", width) as e,
        ):
            yield t, head(r), column(e)

    def _scores(self, tile: Tile, keys: Keys) -> None:
        n, s = self.n, self.sizes
        with (
            n.parallel("j0", keys.panels) as j0,
            self._register_tile(tile, "j1", PANEL) as (t, r, j1),
        ):
            panel = n.insert(arith.AddiOp(keys.first, j0))
            row = n.affine(lambda i, t: i + t, tile.i, t)
            head = n.affine(lambda g, r: g * s.group + r + self.first_head, tile.g, r)

            def step(d: SSAValue, acc: SSAValue) -> SSAValue:
                query = n.load(self.q, row, head, d)
                return n.insert(math.FmaOp(query, self.keys.number(tile.g, panel, d, j1), acc))

            product = n.fold("d", s.size, n.constant(0.0, f32), step)
            score = final_score(self.op, n, self.keys.scaled(product, tile.g, panel, j1))
            n.store(score, self.scores, t, r, self._at(j0, j1))

    def _at(self, j0: SSAValue, j1: SSAValue) -> SSAValue:
        return self.n.affine(lambda j0, j1: j0 * PANEL + j1, j0, j1)

    def _add_bias(self, tile: Tile, keys: Keys) -> None:
        """What distances say: in panels that a token sees all of, then of the last one's keys."""
        if self.bias is None or self.op.bias_origin is None:
            return
        n, s, bias, origin = self.n, self.sizes, self.bias, self.op.bias_origin.value.data
        start = n.affine(lambda first: first * PANEL + origin, keys.first)
        with self._rows(tile) as (t, r):
            head = n.affine(lambda g, r: g * s.group + r, tile.g, r)
            position = self._seen(n.insert(arith.AddiOp(tile.i, t)), 0)
            offset = n.insert(arith.SubiOp(start, position))

            def add(j0: SSAValue, j1: SSAValue) -> None:
                j = self._at(j0, j1)
                column = n.insert(arith.AddiOp(offset, j))
                addend = n.load(bias, head, column)
                score = n.load(self.scores, t, r, j)
                n.store(n.insert(arith.AddfOp(score, addend)), self.scores, t, r, j)

            whole, rest = self._panels_before(keys, self.seen(tile, t))
            with n.parallel("j0", Span(keys.panels.first, whole)) as j0:
                with n.parallel("lane", PANEL) as j1:
                    add(j0, j1)
            with n.parallel("j", Span(n.index(0), rest)) as j1:
                add(whole, j1)

    def _panels_before(self, keys: Keys, end: SSAValue) -> tuple[SSAValue, SSAValue]:
        """How many of a part's panels lie before key `end`, and how many keys of the next."""
        n = self.n
        start = n.affine(lambda first: first * PANEL, keys.first)
        before = n.insert(arith.MaxSIOp(n.insert(arith.SubiOp(end, start)), n.index(0)))
        before = n.insert(arith.MinSIOp(before, keys.last))
        return n.affine(lambda b: b // PANEL, before), n.affine(lambda b: b % PANEL, before)

    def _hide(self, tile: Tile, keys: Keys) -> None:
        """Minus infinity for keys behind a token, and before its window."""
        n = self.n
        if self.sizes.window is not None:
            first = keys.panels.first
        else:
            first, _ = self._panels_before(keys, self.seen(tile, n.index(0)))
        start = n.affine(lambda first: first * PANEL, keys.first)
        hidden = n.constant(MINUS_INFINITY, f32)
        with self._rows(tile) as (t, r):
            end = n.insert(arith.SubiOp(self.seen(tile, t), start))
            with n.parallel("j0", Span(first, keys.panels.last)) as j0:
                with n.parallel("lane", PANEL) as j1:
                    j = self._at(j0, j1)
                    score = n.load(self.scores, t, r, j)
                    score = self._where(n.insert(arith.CmpiOp(j, end, "slt")), score, hidden)
                    if self.sizes.window is not None:
                        begin = n.affine(lambda e, w: e - w, end, self.sizes.window)
                        score = self._where(n.insert(arith.CmpiOp(j, begin, "sge")), score, hidden)
                    n.store(score, self.scores, t, r, j)

    def _where(self, condition: SSAValue, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.n.insert(arith.SelectOp(condition, a, b))

    def _exponentials(self, tile: Tile, keys: Keys, c: SSAValue, to: Partial) -> None:
        n = self.n

        def over_keys(
            init: float, body: Callable[[SSAValue, SSAValue, SSAValue], SSAValue]
        ) -> SSAValue:
            def panel(j0: SSAValue, acc: SSAValue) -> SSAValue:
                return n.fold("lane", PANEL, acc, lambda j1, acc: body(j0, j1, acc))

            return n.fold("j0", keys.panels, n.constant(init, f32), panel)

        with self._rows(tile) as (t, r):

            def larger(j0: SSAValue, j1: SSAValue, acc: SSAValue) -> SSAValue:
                score = n.load(self.scores, t, r, self._at(j0, j1))
                return n.insert(arith.MaximumfOp(acc, score))

            top = over_keys(LOWEST, larger)

            def exponential(j0: SSAValue, j1: SSAValue, acc: SSAValue) -> SSAValue:
                j = self._at(j0, j1)
                score = n.load(self.scores, t, r, j)
                value = power(self.op, n, n.insert(arith.SubfOp(score, top)))
                panel = n.insert(arith.AddiOp(keys.first, j0))
                n.store(self.values.scaled(value, tile.g, panel, j1), self.scores, t, r, j)
                return n.insert(arith.AddfOp(acc, value))

            n.store(over_keys(0.0, exponential), to.totals, *to.at, c, t, r)
            n.store(top, to.tops, *to.at, c, t, r)

    def _sums(self, tile: Tile, keys: Keys, c: SSAValue, to: Partial) -> None:
        n = self.n
        start = n.affine(lambda first: first * PANEL, keys.first)
        with self._register_tile(tile, "e", self.sizes.value_size) as (t, r, e):

            def step(j: SSAValue, acc: SSAValue) -> SSAValue:
                row = n.insert(arith.AddiOp(start, j))
                value = self.values.number(tile.g, row, e)
                return n.insert(math.FmaOp(n.load(self.scores, t, r, j), value, acc))

            total = n.fold("j", Span(n.index(0), keys.last), n.constant(0.0, f32), step)
            n.store(total, to.sums, *to.at, c, t, r, e)


def _divisor(size: int, most: int) -> int:
    """The largest divisor of a size up to `most`; the size itself where that is far less."""
    best = next(d for d in range(min(size, most), 0, -1) if size % d == 0)
    return best if 4 * best >= min(size, most) else size


@contextmanager
def _blocks(
    n: Kernel, name: str, size: int, block: int
) -> Iterator[Callable[[SSAValue], SSAValue]]:
    """A loop over blocks, where there are several; gives the index of one inside a block."""
    if size == block:
        yield lambda inner: inner
        return
    with n.parallel(name, size // block) as outer:
        yield lambda inner: n.affine(lambda o, i: o * block + i, outer, inner)

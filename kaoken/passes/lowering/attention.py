"""Attention by row blocks: a slab of scores that stays in cache, exact softmax, no rescaling.

    parallel bh:                              # batch and head
      kt[j0, d, j1] = k[j, d]                 # keys in panels, lanes over keys
      bias[j] = 0, the mask's addend, or -inf for keys that are hidden or beyond the last
      parallel i in blocks of R rows:
        s[i, j] = sum over d of q[i, d] * kt[j, d] * scale + bias[j]
        s[i, :] = exp(s[i, :] - max);  inverse[i] = 1 / sum
        o[i, e] = sum over j of s[i, j] * v[j, e] * inverse[i]

With bf16 products all factors are rounded to bf16 first: queries a block at a time, keys and values
a head at a time, exponentials as they are computed. Sums stay f32.

The way of SlimAttention (arXiv 2407.07304). The schedule's `tile(i, R)` gives the rows of a block
and `panel(P)` the keys of a panel.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import MemRefType, bf16, f32, i1, i32
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from kaoken.dialect.attributes import ScheduleAttr, Shape
from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.kaoken_loop import ConvertOp, DotKind, DotOp, ViewOp
from kaoken.dialect.nn import AttentionOp
from kaoken.dialect.tensor import SliceOp
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Extent, Index
from kaoken.passes.lowering.rows import LOWEST

MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class Columns:
    """A tensor [B, S, W] that is columns `offset ..` of a wider one, read in place."""

    source: SSAValue
    offset: int


def columns_of(value: SSAValue) -> Columns:
    """See through a slice of the last dimension."""
    op = value.owner
    if not isinstance(op, SliceOp) or op.step.value.data != 1:
        return Columns(value, 0)
    rank = tensor_type(op.input).get_num_dims()
    start, stop = op.range.data
    if op.dim.value.data != rank - 1 or start.constant is None or stop.constant is None:
        return Columns(value, 0)
    return Columns(op.input, start.constant)


@dataclass
class _Plan:
    """The sizes and buffers of one attention kernel."""

    op: AttentionOp
    n: Kernel
    rows: int
    panel: int
    queries: Index
    keys: Index
    max_keys: int
    q: tuple[SSAValue, int]
    k: tuple[SSAValue, int]
    v: tuple[SSAValue, int]
    y: SSAValue
    mask: SSAValue | None

    @property
    def head_size(self) -> int:
        return tensor_type(self.op.query).get_shape()[-1] // self.op.heads

    @property
    def value_size(self) -> int:
        return tensor_type(self.op.value).get_shape()[-1] // self.op.kv_heads

    @property
    def panels(self) -> Extent:
        return Extent.of(self.keys).ceildiv(self.panel)

    @property
    def stride(self) -> int:
        """Floats of a score row: whole panels, and one more to spread rows over cache sets."""
        return (-(-self.max_keys // self.panel) + 1) * self.panel

    @property
    def mask_shape(self) -> Shape:
        assert self.op.mask is not None
        shape = self.n.shape(self.op.mask)
        return (Dim.of(1),) * (4 - len(shape)) + shape

    @property
    def has_key_mask(self) -> bool:
        """Whether the mask says the same for all heads and queries."""
        return self.mask is not None and self.mask_shape[1] == self.mask_shape[2] == Dim.of(1)


def lower_attention(op: AttentionOp, kernel: Kernel) -> None:
    kernel.name = f"attention_{op.heads}x{tensor_type(op.query).get_shape()[-1] // op.heads}"
    kernel.comment = f"softmax(q k^T) v of {op.heads} heads"
    plan = _plan(op, kernel)
    with kernel.parallel("bh", _times(kernel, kernel.shape(op.query)[0], op.heads)) as bh:
        b = kernel.affine(lambda i: i // op.heads, bh)
        h = kernel.affine(lambda i: i % op.heads, bh)
        _head(plan, b, h)


def _plan(op: AttentionOp, kernel: Kernel) -> _Plan:
    schedule = op.schedule or ScheduleAttr(())
    tiles = {d.args[0]: d.args[1] for d in schedule.all("tile")}
    panel = next((d.args[0] for d in schedule.all("panel")), 1)
    batch, queries = kernel.shape(op.query)[:2]
    keys = kernel.shape(op.key)[1]
    seen: dict[SSAValue, SSAValue] = {}

    def rows_of(name: str, value: SSAValue) -> tuple[SSAValue, int]:
        part = columns_of(value)
        if part.source not in seen:
            b, s, w = kernel.shape(part.source)
            seen[part.source] = kernel.buffer(name, part.source, (b * s, w))
        return seen[part.source], part.offset

    q, k, v = rows_of("q", op.query), rows_of("k", op.key), rows_of("v", op.value)
    mask = None if op.mask is None else kernel.buffer("mask", op.mask)
    y = kernel.buffer("y", op.result, (batch * queries, kernel.shape(op.result)[2]))
    return _Plan(
        op,
        kernel,
        int(tiles.get("i", 1)),
        int(panel),
        kernel.size("queries", queries),
        kernel.size("keys", keys),
        keys.evaluate(kernel.maxima),
        q,
        k,
        v,
        y,
        mask,
    )


def _times(kernel: Kernel, batch: Dim, heads: int) -> Index | Extent:
    size = kernel.size("batch", batch)
    if isinstance(size, int):
        return size * heads
    return Extent(AffineMap(0, 1, (AffineExpr.symbol(0) * heads,)), (size,))


@dataclass(frozen=True)
class Head:
    """Which rows and which head a pass over one head reads."""

    query_row: Index
    key_row: Index
    head: SSAValue
    kv_head: SSAValue


class Factors:
    """What the two products multiply, and how the exponentials between them are kept."""

    def __init__(self, plan: _Plan, at: Head, scores: SSAValue):
        self.plan, self.at, self.scores = plan, at, scores
        self.n = plan.n
        self.panels = plan.stride // plan.panel

    @property
    def depth(self) -> int:
        """Steps of the sum over a head's numbers."""
        return self.plan.head_size

    @property
    def steps(self) -> Index | Extent:
        """Steps of the sum over keys."""
        return self.plan.keys

    def pack(self) -> None:
        """Before the first block of a head: bring keys, and maybe values, into shape."""
        raise NotImplementedError

    def start_block(self, first: Index, rows: Extent) -> None:
        """Before the rows of a block."""

    def query(self, i: SSAValue, row: Index, d: SSAValue) -> SSAValue:
        """Step d of query i of the block, which is row `row` of all."""
        raise NotImplementedError

    def key(self, j0: SSAValue, j1: SSAValue, d: SSAValue) -> SSAValue:
        """Step d of key j1 of panel j0."""
        raise NotImplementedError

    def keep(self, value: SSAValue, i: SSAValue, j: SSAValue) -> None:
        """Keep the exponential of query i and key j."""
        raise NotImplementedError

    def probability(self, i: SSAValue, j: SSAValue) -> SSAValue:
        """Step j of query i's exponentials."""
        raise NotImplementedError

    def value(self, j: SSAValue, column: SSAValue) -> SSAValue:
        """Step j of a column of the values."""
        raise NotImplementedError

    def multiply(self, a: SSAValue, b: SSAValue, acc: SSAValue) -> SSAValue:
        """One step of a sum."""
        raise NotImplementedError

    def column(self, head: SSAValue, d: Index, size: int, offset: int) -> SSAValue:
        """The column of number d of a head."""
        return self.n.affine(lambda h, d: h * size + d + offset, head, d)

    def key_at(self, j: SSAValue, d: Index) -> SSAValue:
        """Number d of key j; a key beyond the last is the last, which the bias hides."""
        n, (k, offset) = self.n, self.plan.k
        last = n.add_index(self.plan.keys, -1)
        row = n.add_index(self.at.key_row, n.insert(arith.MinSIOp(j, n.index(last))))
        return n.load(k, row, self.column(self.at.kv_head, d, self.plan.head_size, offset))


class FloatFactors(Factors):
    """f32: queries and values where they are, keys in panels, exponentials over the scores."""

    def pack(self) -> None:
        n, p = self.n, self.plan
        self.kt = n.alloc(MemRefType(f32, [self.panels, p.head_size, p.panel]), "kt")
        with n.parallel("p0", p.panels) as j0, n.parallel("p1", p.panel) as j1:
            j = n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)
            with n.parallel("d", p.head_size) as d:
                n.store(self.key_at(j, d), self.kt, j0, d, j1)

    def query(self, i: SSAValue, row: Index, d: SSAValue) -> SSAValue:
        q, offset = self.plan.q
        return self.n.load(q, row, self.column(self.at.head, d, self.plan.head_size, offset))

    def key(self, j0: SSAValue, j1: SSAValue, d: SSAValue) -> SSAValue:
        return self.n.load(self.kt, j0, d, j1)

    def keep(self, value: SSAValue, i: SSAValue, j: SSAValue) -> None:
        self.n.store(value, self.scores, i, j)

    def probability(self, i: SSAValue, j: SSAValue) -> SSAValue:
        return self.n.load(self.scores, i, j)

    def value(self, j: SSAValue, column: SSAValue) -> SSAValue:
        v, offset = self.plan.v
        at = self.column(self.at.kv_head, column, self.plan.value_size, offset)
        return self.n.load(v, self.n.add_index(self.at.key_row, j), at)

    def multiply(self, a: SSAValue, b: SSAValue, acc: SSAValue) -> SSAValue:
        return self.n.insert(math.FmaOp(a, b, acc))


class Bf16Factors(Factors):
    """Words of two bf16: neighbours in a head for the scores, neighbouring keys for the output."""

    @property
    def depth(self) -> int:
        return self.plan.head_size // 2

    @property
    def steps(self) -> Index | Extent:
        return Extent.of(self.plan.keys).ceildiv(2)

    def pack(self) -> None:
        p, half = self.plan, self.plan.head_size // 2
        kt, self.kt = self._words([self.panels, half, p.panel], "kt")
        vt, self.vt = self._words([p.stride // 2, p.value_size], "vt")
        q16, self.q = self._words([p.rows, half], "q16")
        self.flat_q = self._flat(q16, p.head_size)
        p16, self.p = self._words([p.rows, p.stride // 2], "p16")
        self.flat_p = self._flat(p16, p.stride)
        self._pack_keys(kt, half)
        self._pack_values(vt)

    def _words(self, shape: list[int], name: str) -> tuple[SSAValue, SSAValue]:
        """Memory for words, as pairs of bf16 and as i32."""
        pairs = self.n.alloc(MemRefType(bf16, [*shape, 2]), name)
        words = self.n.insert(ViewOp(pairs, MemRefType(i32, shape)))
        words.name_hint = f"{name}_words"
        return pairs, words

    def _pack_keys(self, kt: SSAValue, half: int) -> None:
        n, p = self.n, self.plan
        with n.parallel("p0", p.panels) as j0, n.parallel("p1", p.panel) as j1:
            j = n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)
            with n.parallel("d", half) as d, n.parallel("half", 2) as part:
                number = n.affine(lambda d, part: d * 2 + part, d, part)
                self._store(self.key_at(j, number), kt, j0, d, j1, part)

    def _pack_values(self, vt: SSAValue) -> None:
        n, p, (v, offset) = self.n, self.plan, self.plan.v
        last = n.add_index(p.keys, -1)
        with n.parallel("p0", self.steps) as j, n.parallel("half", 2) as part:
            key = n.affine(lambda j, part: j * 2 + part, j, part)
            row = n.add_index(self.at.key_row, n.insert(arith.MinSIOp(key, n.index(last))))
            with n.parallel("e", p.value_size) as e:
                at = self.column(self.at.kv_head, e, p.value_size, offset)
                self._store(n.load(v, row, at), vt, j, e, part)

    def start_block(self, first: Index, rows: Extent) -> None:
        """Round the block's queries."""
        n, p, (q, offset) = self.n, self.plan, self.plan.q
        with n.parallel("row", rows) as i, n.parallel("lane", p.head_size) as d:
            at = self.column(self.at.head, d, p.head_size, offset)
            self._store(n.load(q, n.add_index(first, i), at), self.flat_q, i, d)

    def _flat(self, pairs: SSAValue, width: int) -> SSAValue:
        """Rows of pairs as rows of single numbers."""
        return self.n.insert(ViewOp(pairs, MemRefType(bf16, [self.plan.rows, width])))

    def _store(self, value: SSAValue, target: SSAValue, *at: Index) -> None:
        self.n.store(self.n.insert(ConvertOp(value, bf16)), target, *at)

    def query(self, i: SSAValue, row: Index, d: SSAValue) -> SSAValue:
        return self.n.load(self.q, i, d)

    def key(self, j0: SSAValue, j1: SSAValue, d: SSAValue) -> SSAValue:
        return self.n.load(self.kt, j0, d, j1)

    def keep(self, value: SSAValue, i: SSAValue, j: SSAValue) -> None:
        self._store(value, self.flat_p, i, j)

    def probability(self, i: SSAValue, j: SSAValue) -> SSAValue:
        return self.n.load(self.p, i, j)

    def value(self, j: SSAValue, column: SSAValue) -> SSAValue:
        return self.n.load(self.vt, j, column)

    def multiply(self, a: SSAValue, b: SSAValue, acc: SSAValue) -> SSAValue:
        return self.n.insert(DotOp(DotKind.BF16, a, b, acc))


def _head(p: _Plan, b: SSAValue, h: SSAValue) -> None:
    n = p.n
    bias = n.alloc(MemRefType(f32, [p.stride]), "bias")
    scores = n.alloc(MemRefType(f32, [p.rows, p.stride]), "s")
    inverse = n.alloc(MemRefType(f32, [p.rows]), "inverse")
    group = p.op.heads // p.op.kv_heads
    kv_head = n.affine(lambda h: h // group, h) if group > 1 else h
    at = Head(n.multiply_index(b, p.queries), n.multiply_index(b, p.keys), h, kv_head)
    factors = (Bf16Factors if p.op.bf16_products else FloatFactors)(p, at, scores)
    factors.pack()
    _key_bias(p, b, bias)
    with n.parallel("i", p.queries, step=p.rows) as i:
        rows = _rows_left(i, p.queries, p.rows)
        first = n.add_index(at.query_row, i)
        factors.start_block(first, rows)
        _scores(p, factors, first, rows, bias, scores)
        _full_mask(p, (b, h, i), rows, scores)
        _softmax(p, factors, rows, scores, inverse)
        _output(p, factors, first, rows, inverse)


def _rows_left(i: SSAValue, total: Index, block: int) -> Extent:
    """min(block, total - i): the rows of the block that starts at row i."""
    if isinstance(total, int) and total % block == 0:
        return Extent.of(block)
    start, size = AffineExpr.dimension(0), AffineExpr.constant(block)
    if isinstance(total, int):
        left = AffineExpr.constant(total) - start
        return Extent(AffineMap(1, 0, (size, left)), (i,))
    return Extent(AffineMap(1, 1, (size, AffineExpr.symbol(0) - start)), (i, total))


def _key_bias(p: _Plan, b: SSAValue, bias: SSAValue) -> None:
    n = p.n
    hidden = n.constant(MINUS_INFINITY, f32)
    with n.parallel("j", p.panels) as j0, n.parallel("lane", p.panel) as j1:
        n.store(hidden, bias, n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1))
    with n.parallel("j", p.keys) as j:
        addend = n.constant(0.0, f32)
        if p.has_key_mask:
            addend = _mask_addend(p, (b, 0, 0, j))
        n.store(addend, bias, j)


def _mask_addend(p: _Plan, at: tuple[Index, Index, Index, Index]) -> SSAValue:
    n, mask = p.n, p.mask
    assert mask is not None
    assert p.op.mask is not None
    one = Dim.of(1)
    indices = [0 if d == one else i for d, i in zip(p.mask_shape, at, strict=True)]
    rank = tensor_type(p.op.mask).get_num_dims()
    value = n.load(mask, *indices[4 - rank :])
    if value.type != i1:
        return value
    seen, hidden = n.constant(0.0, f32), n.constant(MINUS_INFINITY, f32)
    return n.insert(arith.SelectOp(value, seen, hidden))


def _scores(
    p: _Plan, factors: Factors, first: Index, rows: Extent, bias: SSAValue, scores: SSAValue
) -> None:
    n = p.n
    scale = p.op.scale.value.data
    with n.parallel("j0", p.panels) as j0, n.parallel("i_in", rows) as i:
        row = n.add_index(first, i)
        with n.parallel("j1", p.panel) as j1:
            score = n.fold(
                "d",
                factors.depth,
                n.constant(0.0, f32),
                lambda d, acc: factors.multiply(
                    factors.query(i, row, d), factors.key(j0, j1, d), acc
                ),
            )
            if scale != 1.0:
                score = n.insert(arith.MulfOp(score, n.constant(scale, f32)))
            j = n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)
            n.store(n.insert(arith.AddfOp(score, n.load(bias, j))), scores, i, j)


def _full_mask(
    p: _Plan, at: tuple[SSAValue, SSAValue, SSAValue], rows: Extent, scores: SSAValue
) -> None:
    """Masks that differ from query to query, and causality, element by element."""
    n, (b, h, block) = p.n, at
    if p.op.causal.value.data:
        ahead = n.insert(arith.SubiOp(n.index(p.keys), n.index(p.queries)))
        with n.parallel("row", rows) as i, n.parallel("j", p.keys) as j:
            last = n.add_index(n.add_index(ahead, block), i)
            visible = n.insert(arith.CmpiOp(j, n.index(last), "sle"))
            hidden = n.constant(MINUS_INFINITY, f32)
            value = n.insert(arith.SelectOp(visible, n.load(scores, i, j), hidden))
            n.store(value, scores, i, j)
    if p.mask is not None and not p.has_key_mask:
        with n.parallel("row", rows) as i, n.parallel("j", p.keys) as j:
            addend = _mask_addend(p, (b, h, n.add_index(block, i), j))
            n.store(n.insert(arith.AddfOp(n.load(scores, i, j), addend)), scores, i, j)


def _softmax(p: _Plan, factors: Factors, rows: Extent, scores: SSAValue, inverse: SSAValue) -> None:
    """Exponentials, and one over their sum; a row without a visible key sums to 0."""
    n = p.n

    def over_keys(init: float, body) -> SSAValue:
        def panel(j0: SSAValue, acc: SSAValue) -> SSAValue:
            return n.fold("j1", p.panel, acc, lambda j1, acc: body(j0, j1, acc))

        return n.fold("j0", p.panels, n.constant(init, f32), panel)

    def at(j0: SSAValue, j1: SSAValue) -> SSAValue:
        return n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)

    with n.parallel("row", rows) as i:
        largest = over_keys(
            LOWEST,
            lambda j0, j1, acc: n.insert(arith.MaximumfOp(acc, n.load(scores, i, at(j0, j1)))),
        )

        def exponential(j0: SSAValue, j1: SSAValue, acc: SSAValue) -> SSAValue:
            j = at(j0, j1)
            value = n.insert(math.ExpOp(n.insert(arith.SubfOp(n.load(scores, i, j), largest))))
            factors.keep(value, i, j)
            return n.insert(arith.AddfOp(acc, value))

        total = over_keys(0.0, exponential)
        zero, one = n.constant(0.0, f32), n.constant(1.0, f32)
        positive = n.insert(arith.CmpfOp(total, zero, "ogt"))
        divisor = n.insert(arith.SelectOp(positive, total, one))
        quotient = n.insert(arith.DivfOp(one, divisor))
        n.store(n.insert(arith.SelectOp(positive, quotient, zero)), inverse, i)


def _output(p: _Plan, factors: Factors, first: Index, rows: Extent, inverse: SSAValue) -> None:
    n, size, head = p.n, p.value_size, factors.at.head
    block = p.panel if size % p.panel == 0 else size
    with n.parallel("e0", size // block) as e0, n.parallel("i_in", rows) as i:
        row = n.add_index(first, i)
        with n.parallel("e1", block) as e1:
            column = n.affine(lambda e0, e1: e0 * block + e1, e0, e1)
            total = n.fold(
                "j",
                factors.steps,
                n.constant(0.0, f32),
                lambda j, acc: factors.multiply(
                    factors.probability(i, j), factors.value(j, column), acc
                ),
            )
            result = n.insert(arith.MulfOp(total, n.load(inverse, i)))
            target = n.affine(lambda h, c: h * size + c, head, column)
            n.store(result, p.y, row, target)

"""Attention by row blocks: a slab of scores that stays in cache, exact softmax, no rescaling.

    parallel bh:                              # batch and head
      kt[j0, d, j1] = k[j, d]                 # keys in panels, lanes over keys
      bias[j] = 0, the mask's addend, or -inf for keys that are hidden or beyond the last
      parallel i in blocks of R rows:
        s[i, j] = sum over d of q[i, d] * kt[j, d] * scale + bias[j]
        s[i, :] = exp(s[i, :] - max);  inverse[i] = 1 / sum
        o[i, e] = sum over j of s[i, j] * v[j, e] * inverse[i]

The way of SlimAttention (arXiv 2407.07304). The schedule's `tile(i, R)` gives the rows of a block
and `panel(P)` the keys of a panel.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import MemRefType, f32, i1
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from kaoken.dialect.attributes import ScheduleAttr, Shape
from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim
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


def _head(p: _Plan, b: SSAValue, h: SSAValue) -> None:
    n, panels = p.n, p.stride // p.panel
    kt = n.alloc(MemRefType(f32, [panels, p.head_size, p.panel]), "kt")
    bias = n.alloc(MemRefType(f32, [p.stride]), "bias")
    scores = n.alloc(MemRefType(f32, [p.rows, p.stride]), "s")
    inverse = n.alloc(MemRefType(f32, [p.rows]), "inverse")
    group = p.op.heads // p.op.kv_heads
    kv_head = n.affine(lambda h: h // group, h) if group > 1 else h
    query_row = n.multiply_index(b, p.queries)
    key_row = n.multiply_index(b, p.keys)
    _pack_keys(p, key_row, kv_head, kt)
    _key_bias(p, b, bias)
    with n.parallel("i", p.queries, step=p.rows) as i:
        rows = _rows_left(i, p.queries, p.rows)
        first = n.add_index(query_row, i)
        _scores(p, (first, h), rows, kt, bias, scores)
        _full_mask(p, (b, h, i), rows, scores)
        _softmax(p, rows, scores, inverse)
        _output(p, (first, h), (key_row, kv_head), rows, scores, inverse)


def _rows_left(i: SSAValue, total: Index, block: int) -> Extent:
    """min(block, total - i): the rows of the block that starts at row i."""
    if isinstance(total, int) and total % block == 0:
        return Extent.of(block)
    start, size = AffineExpr.dimension(0), AffineExpr.constant(block)
    if isinstance(total, int):
        left = AffineExpr.constant(total) - start
        return Extent(AffineMap(1, 0, (size, left)), (i,))
    return Extent(AffineMap(1, 1, (size, AffineExpr.symbol(0) - start)), (i, total))


def _pack_keys(p: _Plan, key_row: Index, head: SSAValue, kt: SSAValue) -> None:
    """Lanes beyond the last key repeat it: their scores are hidden by the bias."""
    n, (k, offset), size = p.n, p.k, p.head_size
    last = n.add_index(p.keys, -1)
    with n.parallel("p0", p.panels) as j0, n.parallel("p1", p.panel) as j1:
        j = n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)
        row = n.add_index(key_row, n.insert(arith.MinSIOp(j, n.index(last))))
        with n.parallel("d", size) as d:
            column = n.affine(lambda h, d: h * size + d + offset, head, d)
            n.store(n.load(k, row, column), kt, j0, d, j1)


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
    p: _Plan,
    at: tuple[Index, SSAValue],
    rows: Extent,
    kt: SSAValue,
    bias: SSAValue,
    scores: SSAValue,
) -> None:
    n, (q, offset), size, (first, h) = p.n, p.q, p.head_size, at
    scale = p.op.scale.value.data
    with n.parallel("j0", p.panels) as j0, n.parallel("i_in", rows) as i:
        row = n.add_index(first, i)
        with n.parallel("j1", p.panel) as j1:

            def step(d: SSAValue, acc: SSAValue) -> SSAValue:
                column = n.affine(lambda h, d: h * size + d + offset, h, d)
                return n.insert(math.FmaOp(n.load(q, row, column), n.load(kt, j0, d, j1), acc))

            score = n.fold("d", size, n.constant(0.0, f32), step)
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


def _softmax(p: _Plan, rows: Extent, scores: SSAValue, inverse: SSAValue) -> None:
    """Exponentials in place, and one over their sum; a row without a visible key sums to 0."""
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
            n.store(value, scores, i, j)
            return n.insert(arith.AddfOp(acc, value))

        total = over_keys(0.0, exponential)
        zero, one = n.constant(0.0, f32), n.constant(1.0, f32)
        positive = n.insert(arith.CmpfOp(total, zero, "ogt"))
        divisor = n.insert(arith.SelectOp(positive, total, one))
        quotient = n.insert(arith.DivfOp(one, divisor))
        n.store(n.insert(arith.SelectOp(positive, quotient, zero)), inverse, i)


def _output(
    p: _Plan,
    at: tuple[Index, SSAValue],
    source: tuple[Index, SSAValue],
    rows: Extent,
    scores: SSAValue,
    inverse: SSAValue,
) -> None:
    n, (v, offset), size = p.n, p.v, p.value_size
    (first, h), (key_row, kv_head) = at, source
    block = p.panel if size % p.panel == 0 else size
    with n.parallel("e0", size // block) as e0, n.parallel("i_in", rows) as i:
        row = n.add_index(first, i)
        with n.parallel("e1", block) as e1:
            column = n.affine(
                lambda h, e0, e1: h * size + e0 * block + e1 + offset, kv_head, e0, e1
            )

            def step(j: SSAValue, acc: SSAValue) -> SSAValue:
                value = n.load(v, n.add_index(key_row, j), column)
                return n.insert(math.FmaOp(n.load(scores, i, j), value, acc))

            total = n.fold("j", p.keys, n.constant(0.0, f32), step)
            result = n.insert(arith.MulfOp(total, n.load(inverse, i)))
            target = n.affine(lambda h, e0, e1: h * size + e0 * block + e1, h, e0, e1)
            n.store(result, p.y, row, target)

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

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import MemRefType, f32, i1
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp
from kaoken.passes.lowering.attention_factors import Bf16Factors, Factors, FloatFactors, Head
from kaoken.passes.lowering.attention_plan import Plan, plan_attention
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Extent, Index
from kaoken.passes.lowering.rows import LOWEST

MINUS_INFINITY = float("-inf")


def lower_attention(op: AttentionOp, kernel: Kernel) -> None:
    kernel.name = f"attention_{op.heads}x{tensor_type(op.query).get_shape()[-1] // op.heads}"
    kernel.comment = f"softmax(q k^T) v of {op.heads} heads"
    plan = plan_attention(op, kernel)
    with kernel.parallel("bh", _times(kernel, kernel.shape(op.query)[0], op.heads)) as bh:
        b = kernel.affine(lambda i: i // op.heads, bh)
        h = kernel.affine(lambda i: i % op.heads, bh)
        _head(plan, b, h)


def _times(kernel: Kernel, batch: Dim, heads: int) -> Index | Extent:
    size = kernel.size("batch", batch)
    if isinstance(size, int):
        return size * heads
    return Extent(AffineMap(0, 1, (AffineExpr.symbol(0) * heads,)), (size,))


def _head(p: Plan, b: SSAValue, h: SSAValue) -> None:
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


def _key_bias(p: Plan, b: SSAValue, bias: SSAValue) -> None:
    n = p.n
    hidden = n.constant(MINUS_INFINITY, f32)
    with n.parallel("j", p.panels) as j0, n.parallel("lane", p.panel) as j1:
        n.store(hidden, bias, n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1))
    with n.parallel("j", p.keys) as j:
        addend = n.constant(0.0, f32)
        if p.has_key_mask:
            addend = _mask_addend(p, (b, 0, 0, j))
        n.store(addend, bias, j)


def _mask_addend(p: Plan, at: tuple[Index, Index, Index, Index]) -> SSAValue:
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
    p: Plan, factors: Factors, first: Index, rows: Extent, bias: SSAValue, scores: SSAValue
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
    p: Plan, at: tuple[SSAValue, SSAValue, SSAValue], rows: Extent, scores: SSAValue
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


def _softmax(p: Plan, factors: Factors, rows: Extent, scores: SSAValue, inverse: SSAValue) -> None:
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


def _output(p: Plan, factors: Factors, first: Index, rows: Extent, inverse: SSAValue) -> None:
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

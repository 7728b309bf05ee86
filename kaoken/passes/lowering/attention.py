"""Attention by row blocks: a slab of scores that stays in cache, exact softmax, no rescaling.

    parallel bh:                              # batch and head
      addend[j] = 0, the mask's addend, or -inf for keys that are hidden or beyond the last
      kt[j0, d, j1] = k[j, d]                 # keys in panels, lanes over keys
      parallel i in blocks of R rows:
        s[i, j] = sum over d of q[i, d] * kt[j, d] * scale + addend[j]   # the sum perhaps capped
        s[i, j] += bias[h, origin + j - i]    # where distances have a bias
        s[i, :] = exp(s[i, :] - max);  inverse[i] = 1 / sum
        o[i, e] = sum over j of s[i, j] * v[j, e] * inverse[i]

Keys that none of a block's queries sees, at the beginning or the end, are passed over
(`attention_masks.py`).

With bf16 products all factors are rounded to bf16 first: queries a block at a time, keys and values
a head at a time, exponentials as they are computed. Sums stay f32.

The way of SlimAttention (arXiv 2407.07304). The schedule's `tile(i, R)` gives the rows of a block
and `panel(P)` the keys of a panel.
"""

from __future__ import annotations

from xdsl.dialects import arith
from xdsl.dialects.builtin import MemRefType, bf16, f32
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim
from kaoken.dialect.kaoken_loop import ConvertOp
from kaoken.dialect.nn import AttentionOp
from kaoken.passes.lowering.attention_factors import Bf16Factors, Factors, FloatFactors, Head
from kaoken.passes.lowering.attention_masks import Keys, Masks
from kaoken.passes.lowering.attention_plan import Plan, final_score, plan_attention, power
from kaoken.passes.lowering.kernel import Kernel
from kaoken.passes.lowering.nest import Extent, Index
from kaoken.passes.lowering.panels import panel_of
from kaoken.passes.lowering.rows import LOWEST


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
    scores = n.alloc(MemRefType(f32, [p.rows, p.stride]), "s")
    inverse = n.alloc(MemRefType(f32, [p.rows]), "inverse")
    group = p.op.heads // p.op.kv_heads
    kv_head = n.affine(lambda h: h // group, h) if group > 1 else h
    at = Head(n.multiply_index(b, p.queries), n.multiply_index(b, p.keys), h, kv_head)
    masks = Masks(p, b, h)
    masks.start_head()
    factors = (Bf16Factors if p.op.bf16_products else FloatFactors)(p, at, scores)
    factors.pack(masks.keys)
    with n.parallel("i", p.queries, step=p.rows) as i:
        rows = _rows_left(i, p.queries, p.rows)
        first = n.add_index(at.query_row, i)
        factors.start_block(first, rows)
        keys = masks.start_block(i, rows)
        _scores(p, factors, masks, first, rows, keys)
        _add_bias(p, masks, i, rows, keys, scores)
        masks.hide_unseen(i, rows, keys, scores)
        _softmax(p, factors, rows, keys, inverse)
        _output(p, factors, first, rows, keys, inverse)


def _rows_left(i: SSAValue, total: Index, block: int) -> Extent:
    """min(block, total - i): the rows of the block that starts at row i."""
    if isinstance(total, int) and (total < block or total % block == 0):
        return Extent.of(min(total, block))
    start, size = AffineExpr.dimension(0), AffineExpr.constant(block)
    if isinstance(total, int):
        left = AffineExpr.constant(total) - start
        return Extent(AffineMap(1, 0, (size, left)), (i,))
    return Extent(AffineMap(1, 1, (size, AffineExpr.symbol(0) - start)), (i, total))


def _scores(
    p: Plan, factors: Factors, masks: Masks, first: Index, rows: Extent, keys: Keys
) -> None:
    n = p.n
    with n.parallel("j0", keys.steps(p.panel)) as j0, n.parallel("i_in", rows) as i:
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
            score = final_score(p.op, n, score)
            j = n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)
            n.store(masks.add(score, i, j), factors.scores, i, j)


def _add_bias(
    p: Plan, masks: Masks, start: SSAValue, rows: Extent, keys: Keys, scores: SSAValue
) -> None:
    """Add to the scores of queries start .. start + rows what their distances to keys say.

    With causality there may be no bias for the keys ahead of a query, so each row ends on its own.
    """
    if p.bias is None or p.op.bias_origin is None:
        return
    n, bias, origin = p.n, p.bias, p.op.bias_origin.value.data

    def add(i: SSAValue, j0: SSAValue, j1: SSAValue) -> None:
        j = n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)
        column = n.affine(
            lambda j0, j1, start, i, keys, queries: (
                j0 * p.panel + j1 + origin - start - i - keys + queries
            ),
            *(j0, j1, start, i, p.keys, p.queries),
        )
        total = arith.AddfOp(n.load(scores, i, j), n.load(bias, masks.h, column))
        n.store(n.insert(total), scores, i, j)

    with n.parallel("row", rows) as i:
        seen = masks.seen_by(n.index(n.add_index(start, i)), keys)
        with n.parallel("j0", seen.whole_panels()) as j0, n.parallel("lane", p.panel) as j1:
            add(i, j0, j1)
        if seen.may_end_within_a_panel:
            last, rest = seen.last_panel()
            with n.parallel("rest", rest) as j1:
                add(i, last, j1)


def _softmax(p: Plan, factors: Factors, rows: Extent, keys: Keys, inverse: SSAValue) -> None:
    """Exponentials, and one over their sum; a row without a visible key sums to 0."""
    n, scores = p.n, factors.scores

    def over_keys(init: float, body) -> SSAValue:
        def panel(j0: SSAValue, acc: SSAValue) -> SSAValue:
            return n.fold("j1", p.panel, acc, lambda j1, acc: body(j0, j1, acc))

        return n.fold("j0", keys.steps(p.panel), n.constant(init, f32), panel)

    def at(j0: SSAValue, j1: SSAValue) -> SSAValue:
        return n.affine(lambda j0, j1: j0 * p.panel + j1, j0, j1)

    with n.parallel("row", rows) as i:
        largest = over_keys(
            LOWEST,
            lambda j0, j1, acc: n.insert(arith.MaximumfOp(acc, n.load(scores, i, at(j0, j1)))),
        )

        def exponential(j0: SSAValue, j1: SSAValue, acc: SSAValue) -> SSAValue:
            j = at(j0, j1)
            value = power(p.op, n, n.insert(arith.SubfOp(n.load(scores, i, j), largest)))
            factors.keep(value, i, j)
            return n.insert(arith.AddfOp(acc, value))

        total = over_keys(0.0, exponential)
        zero, one = n.constant(0.0, f32), n.constant(1.0, f32)
        positive = n.insert(arith.CmpfOp(total, zero, "ogt"))
        divisor = n.insert(arith.SelectOp(positive, total, one))
        quotient = n.insert(arith.DivfOp(one, divisor))
        n.store(n.insert(arith.SelectOp(positive, quotient, zero)), inverse, i)


def _place(p: Plan, head: SSAValue, row: Index, e0: SSAValue, e1: SSAValue) -> tuple[Index, ...]:
    """Where column e1 of panel e0 of a head's results is, in rows or in panels."""
    if panel_of(p.op.result) is not None:
        return p.n.affine(lambda h, e: h * p.value_panels + e, head, e0), row, e1
    column = p.value_column(e0, e1)
    return row, p.n.affine(lambda h, c: h * p.value_size + c, head, column)


def _output(
    p: Plan, factors: Factors, first: Index, rows: Extent, keys: Keys, inverse: SSAValue
) -> None:
    n = p.n
    steps = factors.steps(keys)
    with n.parallel("e0", p.value_panels) as e0, n.parallel("i_in", rows) as i:
        row = n.add_index(first, i)
        with n.parallel("e1", p.value_panel) as e1:
            total = n.fold(
                "j",
                steps,
                n.constant(0.0, f32),
                lambda j, acc: factors.multiply(
                    factors.probability(i, j), factors.value(j, e0, e1), acc
                ),
            )
            result = n.insert(arith.MulfOp(total, n.load(inverse, i)))
            if p.op.is_rounded:
                result = n.insert(ConvertOp(result, bf16))
            n.store(result, p.y, *_place(p, factors.at.head, row, e0, e1))

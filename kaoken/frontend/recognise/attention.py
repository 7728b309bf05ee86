"""Attention written out, and what attention masks are made of.

    matmul(softmax(matmul(q, transpose(k)) * scale + mask), v)       -> kaoken.attention
    mask select(keep, 0, -3.4e38), (1 - keep) * -10000               -> mask keep
    mask (column <= row) and keep                                    -> causal, mask keep

A mask that adds a huge negative number counts as hiding a key: this differs only in rows without
any visible key, which then give zeros in place of a plain mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import BoolAttr, IntegerType, i1
from xdsl.ir import SSAValue

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Function
from kaoken.dialect.canonicalization.rules import owner
from kaoken.dialect.nn import AttentionOp, MatmulOp, SoftmaxOp
from kaoken.dialect.tensor import BroadcastOp, CastOp, ElementwiseOp, ReshapeOp, TransposeOp
from kaoken.frontend.aten.attention import attention
from kaoken.frontend.graph import Graph
from kaoken.frontend.recognise.indices import Affine, affine
from kaoken.frontend.recognise.matching import (
    Recogniser,
    inputs_of,
    number,
    polynomial,
    without_ones,
)

F = Function
_HIDDEN = -1e4
"""What adds this or less to a score hides the key."""


@dataclass
class _Scores:
    """`scale * (query @ key.T)` with what was added or replaced on the way, innermost first."""

    product: MatmulOp
    scale: float = 1.0
    added: list[tuple[SSAValue, float]] = field(default_factory=list)
    kept: list[tuple[SSAValue, bool]] = field(default_factory=list)
    """(condition, whether true keeps the key)."""


def written_out(g: Graph, op: MatmulOp) -> SSAValue | None:
    softmax = _softmax_under(op.lhs)
    scores = None if softmax is None else _scores(softmax.input)
    if scores is None or not _are_heads(g, scores.product, op):
        return None
    query, before = _unscaled(g, scores.product.lhs)
    key, factor = _unscaled(g, scores.product.rhs)
    if not scores.product.transpose_rhs.value.data:
        key = g.swap(key, -2, -1)
    value = g.swap(op.rhs, -2, -1) if op.transpose_rhs.value.data else op.rhs
    scale = scores.scale * before * factor
    return attention(g, query, key, value, _mask(g, scores), False, scale)


def _softmax_under(value: SSAValue) -> SoftmaxOp | None:
    """The softmax that makes the probabilities; torch's safe one gives zeros for hidden rows."""
    parts = inputs_of(value, F.SELECT)
    if parts is not None and number(parts[1]) == 0:
        value = parts[2]
    return owner(value, SoftmaxOp)


def _are_heads(g: Graph, product: MatmulOp, mixed: MatmulOp) -> bool:
    """True if operands are [B, H, S, D] or [H, S, D] of known heads, of equal leading sizes."""
    shapes = [g.shape(v) for v in (product.lhs, product.rhs, mixed.rhs)]
    if len({len(s) for s in shapes}) != 1 or len(shapes[0]) not in (2, 3, 4):
        return False
    if len({s[:-2] for s in shapes}) != 1 or shapes[0][-1].constant is None:
        return False
    return len(shapes[0]) < 4 or shapes[0][1].constant is not None


def _scores(value: SSAValue) -> _Scores | None:
    """What a softmax is taken of, taken apart."""
    if (product := owner(value, MatmulOp)) is not None:
        return _Scores(product)
    op = owner(value, ElementwiseOp)
    if op is None:
        return None
    if op.function.data in (F.MUL, F.DIV):
        return _scaled_scores(op)
    if op.function.data is F.ADD:
        return _added_scores(op)
    return _selected_scores(op) if op.function.data is F.SELECT else None


def _scaled_scores(op: ElementwiseOp) -> _Scores | None:
    a, b = op.inputs
    if op.function.data is F.MUL and number(a) is not None:
        a, b = b, a
    factor = number(b)
    if factor is None or factor <= 0 or (inner := _scores(a)) is None:
        return None
    factor = factor if op.function.data is F.MUL else 1 / factor
    inner.scale *= factor
    inner.added = [(mask, times * factor) for mask, times in inner.added]
    return inner


def _added_scores(op: ElementwiseOp) -> _Scores | None:
    for scores, mask in (tuple(op.inputs), tuple(reversed(op.inputs))):
        if (inner := _scores(scores)) is not None:
            inner.added.append((mask, 1.0))
            return inner
    return None


def _selected_scores(op: ElementwiseOp) -> _Scores | None:
    condition, yes, no = op.inputs
    for scores, other, keeps in ((yes, no, True), (no, yes, False)):
        hidden = number(other)
        if hidden is None or hidden > _HIDDEN:
            continue
        if (inner := _scores(scores)) is not None:
            inner.kept.append((condition, keeps))
            return inner
    return None


def _unscaled(g: Graph, value: SSAValue) -> tuple[SSAValue, float]:
    """A value without a factor it was multiplied by, and the factor."""
    op = value.owner
    if isinstance(op, ElementwiseOp) and op.function.data in (F.MUL, F.DIV):
        factor = number(op.inputs[1])
        if factor:
            inner, rest = _unscaled(g, op.inputs[0])
            return inner, rest * (factor if op.function.data is F.MUL else 1 / factor)
    if isinstance(op, ReshapeOp | TransposeOp):
        inner, factor = _unscaled(g, op.input)
        if factor != 1:
            return _moved(g, op, inner), factor
    return value, 1.0


def _moved(g: Graph, op: ReshapeOp | TransposeOp, value: SSAValue) -> SSAValue:
    if isinstance(op, ReshapeOp):
        return g.reshape(value, g.shape(op.result))
    return g.transpose(value, list(op.permutation.get_values()))


def _mask(g: Graph, scores: _Scores) -> SSAValue | None:
    """All masks as one: of bools where all only hide, else of floats."""
    kept = [g.cast(c, i1) if keeps else _not(g, c) for c, keeps in scores.kept]
    floats: list[SSAValue] = []
    for mask, factor in scores.added:
        if (keep := visible(g, mask)) is not None:
            kept.append(keep)
        else:
            same = g.full(factor, g.dtype(mask))
            floats.append(mask if factor == 1 else g.elementwise(F.MUL, mask, same))
    condition = _joined(g, F.AND, kept)
    total = _joined(g, F.ADD, floats)
    if condition is None or total is None:
        return total if condition is None else condition
    return g.elementwise(F.SELECT, condition, total, g.full(float("-inf"), g.dtype(total)))


def _joined(g: Graph, function: Function, values: Sequence[SSAValue]) -> SSAValue | None:
    result: SSAValue | None = None
    for value in values:
        result = value if result is None else g.elementwise(function, result, value)
    return result


def _not(g: Graph, condition: SSAValue) -> SSAValue:
    return g.elementwise(F.NOT, condition)


def visible(g: Graph, mask: SSAValue) -> SSAValue | None:
    """The bool mask of which a float mask is the additive form, or None."""
    if (op := owner(mask, BroadcastOp)) is not None:
        return visible(g, op.input)
    if (op := owner(mask, ReshapeOp)) is not None:
        if without_ones(g.shape(op.input)) != without_ones(g.shape(mask)):
            return None
        keep = visible(g, op.input)
        return None if keep is None else g.reshape(keep, g.shape(mask))
    if (parts := inputs_of(mask, F.SELECT)) is not None:
        return _visible_choice(g, *parts)
    return _visible_product(g, mask)


def _visible_choice(g: Graph, condition: SSAValue, yes: SSAValue, no: SSAValue) -> SSAValue | None:
    """select(keep, 0, -inf) and select(hide, -inf, 0)."""
    a, b = number(yes), number(no)
    if a == 0 and b is not None and b <= _HIDDEN:
        return condition
    if b == 0 and a is not None and a <= _HIDDEN:
        return _not(g, condition)
    return None


def _visible_product(g: Graph, mask: SSAValue) -> SSAValue | None:
    """(1 - keep) * -10000, where keep was a bool or integer mask."""
    op = owner(mask, ElementwiseOp)
    if op is None:
        return None
    for value in _cast_masks(op):
        found = polynomial(mask, [value.result])
        if found is None:
            continue
        constant, slope = found.get((0,), 0.0), found.get((1,), 0.0)
        if constant <= _HIDDEN and slope == -constant:
            return g.cast(value.input, i1)
        if constant == 0 and slope <= _HIDDEN:
            return _not(g, g.cast(value.input, i1))
    return None


def _cast_masks(op: ElementwiseOp, depth: int = 3) -> list[CastOp]:
    """The casts of bool or integer masks among the operands of arithmetic."""
    found: list[CastOp] = []
    for value in op.inputs:
        inner = value.owner
        if isinstance(inner, CastOp) and isinstance(_element(inner.input), IntegerType):
            found.append(inner)
        elif isinstance(inner, ElementwiseOp) and depth:
            found += _cast_masks(inner, depth - 1)
    return found


def _element(value: SSAValue) -> object:
    return getattr(value.type, "element_type", None)


def bool_mask(g: Graph, op: AttentionOp) -> SSAValue | None:
    """attention with an additive mask that only hides, as one with a bool mask."""
    if op.mask is None or g.dtype(op.mask) == i1 or (keep := visible(g, op.mask)) is None:
        return None
    operands = [op.query, op.key, op.value, keep]
    return g.make(AttentionOp, operands, op.properties)


def causal_mask(g: Graph, op: AttentionOp) -> SSAValue | None:
    """attention with `column <= row` among its bool mask's conditions, as causal attention."""
    if op.mask is None or g.dtype(op.mask) != i1 or op.causal.value.data:
        return None
    rows, columns = g.shape(op.query)[1], g.shape(op.key)[1]
    terms = _terms(op.mask)
    rest = [term for term in terms if not _is_causal(term)]
    if len(rest) == len(terms) or rows != columns:
        return None
    operands = [op.query, op.key, op.value, _joined(g, F.AND, rest)]
    properties = {**op.properties, "causal": BoolAttr.from_bool(True)}
    return g.make(AttentionOp, operands, properties)


def _terms(mask: SSAValue) -> list[SSAValue]:
    """The conditions whose conjunction a mask is."""
    if (op := owner(mask, BroadcastOp)) is not None:
        return _terms(op.input)
    parts = inputs_of(mask, F.AND)
    return [mask] if parts is None else [t for part in parts for t in _terms(part)]


def _is_causal(condition: SSAValue) -> bool:
    """True if a condition is `column <= row`."""
    op = condition.owner
    if isinstance(op, BroadcastOp | ReshapeOp):
        return _only_adds_ones(op) and _is_causal(op.input)
    if not isinstance(op, ElementwiseOp) or not op.function.data.is_comparison:
        return False
    a, b = affine(op.inputs[0]), affine(op.inputs[1])
    if a is None or b is None:
        return False
    lead = a + b * -1
    signed = {
        F.GE: lead,
        F.LE: lead * -1,
        F.GT: lead + Affine((), -1),
        F.LT: lead * -1 + Affine((), -1),
    }.get(op.function.data)
    if signed is None or signed.offset or len(signed.slopes) < 2:
        return False
    return signed.slopes[-2:] == (1, -1) and not any(signed.slopes[:-2])


def _only_adds_ones(op: BroadcastOp | ReshapeOp) -> bool:
    before, after = shape_of(op.input), shape_of(op.result)
    return len(before) >= 2 and after[-2:] == before[-2:]


RULES = [
    Recogniser(MatmulOp, written_out),
    Recogniser(AttentionOp, bool_mask),
    Recogniser(AttentionOp, causal_mask),
]

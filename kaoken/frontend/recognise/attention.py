"""Attention written out.

    matmul(softmax(matmul(q, transpose(k)) * scale + mask), v)       -> kaoken.attention
    ... softmax(tanh(matmul(q, transpose(k)) * scale / c) * c + mask)   -> {softcap = c}

Masks are added (floats), or choose between a score and a huge negative number (bools).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects.builtin import i1
from xdsl.ir import SSAValue

from kaoken.dialect.attributes import Function, Shape
from kaoken.dialect.canonicalization.rules import owner
from kaoken.dialect.nn import MatmulOp, SoftmaxOp, TanhOp
from kaoken.dialect.tensor import ElementwiseOp, ReshapeOp, TransposeOp
from kaoken.frontend.aten.attention import attention
from kaoken.frontend.graph import ONE, Graph
from kaoken.frontend.recognise.masks import HIDDEN, joined, negated, visible
from kaoken.frontend.recognise.matching import (
    Recogniser,
    inputs_of,
    number,
)

F = Function


@dataclass
class _Scores:
    """`scale * (query @ key.T)` with what was added or replaced on the way, innermost first."""

    product: MatmulOp
    scale: float = 1.0
    cap: float | None = None
    """`cap * tanh(scale * product)` in place of the product alone."""
    added: list[tuple[SSAValue, float]] = field(default_factory=list)
    kept: list[tuple[SSAValue, bool]] = field(default_factory=list)
    """(condition, whether true keeps the key)."""


def written_out(g: Graph, op: MatmulOp) -> SSAValue | None:
    softmax = _softmax_under(op.lhs)
    scores = None if softmax is None else _scores(softmax.input)
    if softmax is None or scores is None or not _are_heads(g, scores.product, op):
        return None
    rank = g.rank(op.rhs)
    if g.shape(softmax.result) != _raised(g.shape(scores.product.result), rank):
        return None
    query, before = _unscaled(g, scores.product.lhs)
    key, factor = _unscaled(g, scores.product.rhs)
    query, key = (g.reshape(v, _raised(g.shape(v), rank)) for v in (query, key))
    if not scores.product.transpose_rhs.value.data:
        key = g.swap(key, -2, -1)
    value = g.swap(op.rhs, -2, -1) if op.transpose_rhs.value.data else op.rhs
    scale = scores.scale * before * factor * (scores.cap or 1.0)
    return attention(g, query, key, value, _mask(g, scores), False, scale, scores.cap)


def _softmax_under(value: SSAValue) -> SoftmaxOp | None:
    """The softmax that makes the probabilities; torch's safe one gives zeros for hidden rows."""
    parts = inputs_of(value, F.SELECT)
    if parts is not None and number(parts[1]) == 0:
        value = parts[2]
    return owner(value, SoftmaxOp)


def _are_heads(g: Graph, product: MatmulOp, mixed: MatmulOp) -> bool:
    """True if operands are [B, H, S, D] or [H, S, D] of known heads, of equal leading sizes."""
    rank = g.rank(mixed.rhs)
    shapes = [_raised(g.shape(v), rank) for v in (product.lhs, product.rhs, mixed.rhs)]
    if len({len(s) for s in shapes}) != 1 or len(shapes[0]) not in (2, 3, 4):
        return False
    if len({s[:-2] for s in shapes}) != 1 or shapes[0][-1].constant is None:
        return False
    return len(shapes[0]) < 4 or shapes[0][1].constant is not None


def _raised(shape: Shape, rank: int) -> Shape:
    """A shape with ones in front: products of one text may lack the batch."""
    return (*(ONE,) * (rank - len(shape)), *shape)


def _scores(value: SSAValue) -> _Scores | None:
    """What a softmax is taken of, taken apart."""
    if (product := owner(value, MatmulOp)) is not None:
        return _Scores(product)
    if (capped := owner(value, TanhOp)) is not None:
        return _capped_scores(capped)
    op = owner(value, ElementwiseOp)
    if op is None:
        return None
    if op.function.data in (F.MUL, F.DIV):
        return _scaled_scores(op)
    if op.function.data is F.ADD:
        return _added_scores(op)
    if op.function.data is F.MAXIMUM:
        return _bounded_scores(op)
    return _selected_scores(op) if op.function.data is F.SELECT else None


def _scaled_scores(op: ElementwiseOp) -> _Scores | None:
    a, b = op.inputs
    if op.function.data is F.MUL and number(a) is not None:
        a, b = b, a
    factor = number(b)
    if factor is None or factor <= 0 or (inner := _scores(a)) is None:
        return None
    factor = factor if op.function.data is F.MUL else 1 / factor
    if inner.cap is None:
        inner.scale *= factor
    else:
        inner.cap *= factor
    inner.added = [(mask, times * factor) for mask, times in inner.added]
    return inner


def _capped_scores(op: TanhOp) -> _Scores | None:
    inner = _scores(op.input)
    if inner is None or inner.cap is not None or inner.added or inner.kept:
        return None
    inner.cap = 1.0
    return inner


def _added_scores(op: ElementwiseOp) -> _Scores | None:
    for scores, mask in (tuple(op.inputs), tuple(reversed(op.inputs))):
        if (inner := _scores(scores)) is not None:
            inner.added.append((mask, 1.0))
            return inner
    return None


def _bounded_scores(op: ElementwiseOp) -> _Scores | None:
    """maximum(scores, -3.4e38): what is hidden stays so."""
    for scores, bound in (tuple(op.inputs), tuple(reversed(op.inputs))):
        least = number(bound)
        if least is not None and least <= HIDDEN:
            return _scores(scores)
    return None


def _selected_scores(op: ElementwiseOp) -> _Scores | None:
    condition, yes, no = op.inputs
    for scores, other, keeps in ((yes, no, True), (no, yes, False)):
        hidden = number(other)
        if hidden is None or hidden > HIDDEN:
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
    kept = [g.cast(c, i1) if keeps else negated(g, c) for c, keeps in scores.kept]
    floats: list[SSAValue] = []
    for mask, factor in scores.added:
        if (keep := visible(g, mask)) is not None:
            kept.append(keep)
        else:
            same = g.full(factor, g.dtype(mask))
            floats.append(mask if factor == 1 else g.elementwise(F.MUL, mask, same))
    condition = joined(g, F.AND, kept)
    total = joined(g, F.ADD, floats)
    if condition is None or total is None:
        return total if condition is None else condition
    return g.elementwise(F.SELECT, condition, total, g.full(float("-inf"), g.dtype(total)))


RULES = [Recogniser(MatmulOp, written_out)]

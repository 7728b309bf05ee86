"""What attention masks are made of.

    mask select(keep, 0, -3.4e38), (1 - keep) * -10000               -> mask keep
    mask (column <= row) and keep                                    -> causal, mask keep
    mask (column <= row) and (column > row - 512)                    -> causal, window 512

A mask that adds a huge negative number counts as hiding a key: this differs only in rows without
any visible key, which then give zeros in place of a plain mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import BoolAttr, IntegerType, i1
from xdsl.ir import SSAValue

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Function, int_attr
from kaoken.dialect.canonicalization.rules import owner
from kaoken.dialect.nn import AttentionOp
from kaoken.dialect.tensor import BroadcastOp, CastOp, ElementwiseOp, ReshapeOp
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
HIDDEN = -1e4
"""What adds this or less to a score hides the key."""


def joined(g: Graph, function: Function, values: Sequence[SSAValue]) -> SSAValue | None:
    result: SSAValue | None = None
    for value in values:
        result = value if result is None else g.elementwise(function, result, value)
    return result


def negated(g: Graph, condition: SSAValue) -> SSAValue:
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
    if a == 0 and b is not None and b <= HIDDEN:
        return condition
    if b == 0 and a is not None and a <= HIDDEN:
        return negated(g, condition)
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
        if constant <= HIDDEN and slope == -constant:
            return g.cast(value.input, i1)
        if constant == 0 and slope <= HIDDEN:
            return negated(g, g.cast(value.input, i1))
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
    operands = [op.query, op.key, op.value, keep, op.position_bias]
    return g.make(AttentionOp, operands, op.properties)


def causal_mask(g: Graph, op: AttentionOp) -> SSAValue | None:
    """Attention with `column <= row` among its bool mask's conditions, as causal attention.

    `column > row - w` besides is a window of w tokens.
    """
    if op.mask is None or g.dtype(op.mask) != i1:
        return None
    if g.shape(op.query)[1] != g.shape(op.key)[1]:
        return None
    terms = {term: _nearness(term) for term in _terms(op.mask)}
    causal = bool(op.causal.value.data) or _CAUSAL in terms.values()
    windows = [w for n in terms.values() if causal and (w := _window(n)) is not None]
    rest = [
        term for term, n in terms.items() if not causal or (n != _CAUSAL and _window(n) is None)
    ]
    if len(rest) == len(terms):
        return None
    if op.window is not None:
        windows.append(op.window.value.data)
    operands = [op.query, op.key, op.value, joined(g, F.AND, rest), op.position_bias]
    properties = {**op.properties, "causal": BoolAttr.from_bool(True)}
    if windows:
        properties["window"] = int_attr(min(windows))
    return g.make(AttentionOp, operands, properties)


_CAUSAL = Affine((1, -1), 0)
"""row - column, which is at least 0 for the keys that a query may see."""


def is_causal(condition: SSAValue) -> bool:
    """Whether a condition is `column <= row`."""
    return _nearness(condition) == _CAUSAL


def _window(nearness: Affine | None) -> int | None:
    """w of `column - row + w - 1`, which is at least 0 for the last w keys."""
    if nearness is None or nearness.slopes != (-1, 1) or nearness.offset < 0:
        return None
    return nearness.offset + 1


def _terms(mask: SSAValue) -> list[SSAValue]:
    """The conditions whose conjunction a mask is."""
    if (op := owner(mask, BroadcastOp)) is not None:
        return _terms(op.input)
    parts = inputs_of(mask, F.AND)
    return [mask] if parts is None else [t for part in parts for t in _terms(part)]


def _nearness(condition: SSAValue) -> Affine | None:
    """The function of (row, column) that is at least 0 where a condition is true."""
    op = condition.owner
    if isinstance(op, BroadcastOp | ReshapeOp):
        return _nearness(op.input) if _only_adds_ones(op) else None
    if not isinstance(op, ElementwiseOp) or not op.function.data.is_comparison:
        return None
    a, b = affine(op.inputs[0]), affine(op.inputs[1])
    if a is None or b is None:
        return None
    lead = a + b * -1
    signed = {
        F.GE: lead,
        F.LE: lead * -1,
        F.GT: lead + Affine((), -1),
        F.LT: lead * -1 + Affine((), -1),
    }.get(op.function.data)
    if signed is None or len(signed.slopes) < 2 or any(signed.slopes[:-2]):
        return None
    return Affine(signed.slopes[-2:], signed.offset)


def _only_adds_ones(op: BroadcastOp | ReshapeOp) -> bool:
    before, after = shape_of(op.input), shape_of(op.result)
    return len(before) >= 2 and after[-2:] == before[-2:]


RULES = [Recogniser(AttentionOp, bool_mask), Recogniser(AttentionOp, causal_mask)]

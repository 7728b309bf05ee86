"""Norms and pooling written out in arithmetic, over the last dimension.

(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)        -> kaoken.layer_norm %x, 1
x * rsqrt(mean(x^2) + eps)                               -> kaoken.rms_norm %x, 1
kaoken.layer_norm(x, 1) * w + b                          -> kaoken.layer_norm %x, %w bias %b
x / maximum(sqrt(sum(x^2)), eps)                         -> kaoken.normalize
sum(x * mask) / maximum(sum(mask), eps), over tokens     -> kaoken.mean_pool
"""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerType
from xdsl.ir import SSAValue

from kaoken.analysis.constants import is_constant
from kaoken.dialect.attributes import Function, Reduction, float_attr
from kaoken.dialect.canonicalization.movement import leading_ones_dropped
from kaoken.dialect.canonicalization.rules import owner
from kaoken.dialect.nn import LayerNormOp, MeanPoolOp, NormalizeOp, RmsNormOp
from kaoken.dialect.tensor import ElementwiseOp, ReduceOp
from kaoken.frontend.graph import Graph
from kaoken.frontend.recognise.matching import (
    ONE,
    Recogniser,
    inputs_of,
    is_column,
    number,
    plain,
    row_mean,
    row_reduction,
    rows_only,
    without_ones,
)

F = Function


def norm(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    for numerator, radicand in _divided_by_root(op):
        parts = inputs_of(radicand, F.ADD)
        if parts is None:
            continue
        for statistic, eps in (parts, parts[::-1]):
            squares = row_mean(statistic)
            if squares is None or number(eps) is None:
                continue
            for x, factor in _factors(numerator):
                if _is_square(squares, x):
                    result = _norm_of(g, x, number(eps) or 0.0)
                    return result if factor is None else g.elementwise(F.MUL, result, factor)
    return None


def _factors(value: SSAValue) -> list[tuple[SSAValue, SSAValue | None]]:
    """A value, and where it is a product each of its factors, with the other one."""
    parts = inputs_of(value, F.MUL)
    whole: list[tuple[SSAValue, SSAValue | None]] = [(value, None)]
    return whole if parts is None else [*whole, parts, parts[::-1]]  # pyright: ignore


def _norm_of(g: Graph, x: SSAValue, eps: float) -> SSAValue:
    """Layer norm where x is something less its mean, else the root-mean-square norm."""
    weight = g.full(1.0, g.dtype(x), g.shape(x)[-1:])
    parts = inputs_of(x, F.SUB)
    if parts is not None and row_mean(parts[1]) is parts[0] and is_column(parts[1], x):
        return g.make(LayerNormOp, [parts[0], weight, None], {"eps": float_attr(eps)})
    return g.make(RmsNormOp, [x, weight], {"eps": float_attr(eps)})


def _divided_by_root(op: ElementwiseOp) -> list[tuple[SSAValue, SSAValue]]:
    """(x, y) for each way to read an op as x / sqrt(y), y one number for each row."""
    a, b = op.inputs[0], op.inputs[-1]
    pairs: list[tuple[SSAValue, SSAValue | None]] = []
    if op.function.data is F.DIV and is_column(b, a):
        pairs.append((a, _root(b)))
    if op.function.data is F.MUL:
        pairs += [(x, _inverse_root(y)) for x, y in ((a, b), (b, a)) if is_column(y, x)]
    return [(x, root) for x, root in pairs if root is not None]


def _root(value: SSAValue) -> SSAValue | None:
    parts = inputs_of(rows_only(value), F.SQRT)
    return _power(value, 0.5) if parts is None else rows_only(parts[0])


def _inverse_root(value: SSAValue) -> SSAValue | None:
    value = rows_only(value)
    if (parts := inputs_of(value, F.RSQRT)) is not None:
        return rows_only(parts[0])
    parts = inputs_of(value, F.DIV)
    if parts is not None and number(parts[0]) == 1:
        return _root(parts[1])
    return _power(value, -0.5)


def _power(value: SSAValue, exponent: float) -> SSAValue | None:
    parts = inputs_of(rows_only(value), F.POW)
    return parts[0] if parts is not None and number(parts[1]) == exponent else None


def _is_square(value: SSAValue, x: SSAValue) -> bool:
    parts = inputs_of(value, F.MUL)
    if parts is not None:
        return parts[0] is parts[1] is x
    return _power(value, 2.0) is x


def norm_weight(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    """norm(x, 1) * w as norm(x, w)."""
    if op.function.data is not F.MUL:
        return None
    for value, factor in (tuple(op.inputs), tuple(reversed(op.inputs))):
        inner = owner(value, LayerNormOp) or owner(value, RmsNormOp)
        weight = leading_ones_dropped(factor)
        if inner is None or g.shape(weight) != g.shape(inner.weight) or number(inner.weight) != 1:
            continue
        if g.shape(value) != g.shape(op.result) or not is_constant(weight):
            continue
        if isinstance(inner, RmsNormOp):
            return g.make(RmsNormOp, [inner.input, weight], {"eps": inner.eps})
        if inner.bias is None:
            return g.make(LayerNormOp, [inner.input, weight, None], {"eps": inner.eps})
    return None


def norm_bias(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    """layer_norm(x, w) + b as layer_norm(x, w, b)."""
    if op.function.data is not F.ADD:
        return None
    for value, addend in (tuple(op.inputs), tuple(reversed(op.inputs))):
        inner, bias = owner(value, LayerNormOp), leading_ones_dropped(addend)
        if inner is None or inner.bias is not None or not is_constant(bias):
            continue
        if g.shape(bias) == g.shape(inner.weight) and g.shape(value) == g.shape(op.result):
            return g.make(LayerNormOp, [inner.input, inner.weight, bias], {"eps": inner.eps})
    return None


def normalize(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    if op.function.data is not F.DIV:
        return None
    x, length = op.inputs
    eps = 0.0
    if not is_column(length, x):
        return None
    if (parts := inputs_of(rows_only(length), F.MAXIMUM)) is not None:
        length, eps = parts[0], number(parts[1])
    root = _root(length)
    squares = None if root is None else row_reduction(root, Reduction.SUM)
    if squares is None or eps is None or not _is_square(squares, x):
        return None
    return g.make(NormalizeOp, [x], {"eps": float_attr(eps)})


def mean_pool(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    if op.function.data is not F.DIV:
        return None
    total, bound = _token_sum(g, op.inputs[0]), inputs_of(plain(op.inputs[1]), F.MAXIMUM)
    parts = None if total is None else inputs_of(total, F.MUL)
    if bound is None or parts is None or not 0 < (number(bound[1]) or 0) <= 1:
        return None
    counted = _token_sum(g, plain(bound[0]))
    if counted is None:
        return None
    for x, mask in (parts, parts[::-1]):
        kept = plain(mask)
        if plain(counted) is kept and _is_mask(g, x, kept):
            return g.make(MeanPoolOp, [x, g.reshape(kept, g.shape(x)[:2])])
    return None


def _token_sum(g: Graph, value: SSAValue) -> SSAValue | None:
    """x [B, S, ...] of a value that is its sum over S."""
    op = owner(value, ReduceOp)
    if op is None or op.reduction.data is not Reduction.SUM or op.dims.get_values() != (1,):
        return None
    return op.input


def _is_mask(g: Graph, x: SSAValue, mask: SSAValue) -> bool:
    """True if a mask has a number for each token; integers are taken to be 0 or 1."""
    shape = g.shape(x)
    if len(shape) != 3 or not isinstance(g.dtype(mask), IntegerType):
        return False
    padded = (*g.shape(mask), ONE)
    return without_ones(padded) == without_ones(shape[:2])


RULES = [
    Recogniser(ElementwiseOp, rule) for rule in (mean_pool, normalize, norm, norm_weight, norm_bias)
]

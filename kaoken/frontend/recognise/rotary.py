"""Rotary positions written out, on heads [B, H, S, R] or [B, S, H, R].

    x * cos + concat(-x[R/2:], x[:R/2]) * sin                        -> kaoken.rope %x, %cos, %sin
    x * cos + interleave(-x[1::2], x[0::2]) * sin                    -> the same, interleaved
    concat(a * cos - b * sin, b * cos + a * sin), a, b halves of x   -> kaoken.rope
    concat(rope(x[:R]), x[R:])                                       -> kaoken.rope of x

cos and sin are the same for all texts and heads, and hold each number for both of a pair. They may
be made in any way: only that each number is there twice must be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from xdsl.dialects.builtin import BoolAttr, f32
from xdsl.ir import SSAValue

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Function, int_attr
from kaoken.dialect.canonicalization.rules import owner, splat
from kaoken.dialect.decoder import RopeOp
from kaoken.dialect.dims import Dim
from kaoken.dialect.tensor import (
    BroadcastOp,
    CastOp,
    ConcatOp,
    ElementwiseOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)
from kaoken.frontend.graph import ONE, Graph
from kaoken.frontend.recognise.matching import Recogniser, inputs_of

F = Function


@dataclass(frozen=True)
class _Span:
    """`transpose(source, order)[..., start::step]`, `count` numbers of the last dimension."""

    source: SSAValue
    order: tuple[int, ...]
    start: int
    step: int
    count: int

    def is_of(self, other: _Span) -> bool:
        """Whether both are parts of one value."""
        return self.source is other.source and self.order == other.order


@dataclass(frozen=True)
class _Rotation:
    """What a rotation rotates, and by which tables: [.., R], or [.., R/2] where `is_half`."""

    x: _Span
    cos: SSAValue
    sin: SSAValue
    interleaved: bool
    is_half: bool = False


def rotation(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    """x * cos + turned(x) * sin; what is joined with more numbers of x is left to `joined`."""
    if op.function.data is not F.ADD or g.rank(op.result) != 4:
        return None
    uses = list(op.result.uses)
    if len(uses) == 1 and isinstance(uses[0].operation, ConcatOp) and uses[0].index == 0:
        return None
    found = _rotation_of(op.result)
    return None if found is None else _rope(g, found, found.x.count)


def joined(g: Graph, op: ConcatOp) -> SSAValue | None:
    """A rotation of the first numbers of each head joined with the rest, or of both halves."""
    if len(op.inputs) != 2 or g.rank(op.result) != 4 or op.dim.value.data != 3:
        return None
    first, rest = op.inputs
    if (whole := _rotated_halves(first, rest)) is not None:
        return _rope(g, whole, whole.x.count)
    found, after = _rotation_of(first), _span(rest)
    if found is None:
        return None
    x = found.x
    if after is not None and after.is_of(x) and after.step == x.step == 1:
        if after.start == x.start + x.count:
            return _rope(g, found, x.count + after.count)
    rotated = _rope(g, found, x.count)
    return None if rotated is None else g.concat([rotated, rest], 3)


def _rotation_of(value: SSAValue) -> _Rotation | None:
    terms = inputs_of(value, F.ADD)
    if terms is None:
        return None
    for (x, cos), (turned, sin) in _product_pairs(*terms):
        interleaved = _is_turned(x, turned)
        span = _span(x)
        if interleaved is None or span is None:
            continue
        if _is_twice(cos, interleaved) and _is_twice(sin, interleaved):
            return _Rotation(span, cos, sin, interleaved)
    return None


Pair = tuple[SSAValue, SSAValue]


def _product_pairs(a: SSAValue, b: SSAValue) -> Iterator[tuple[Pair, Pair]]:
    """Both values as products, their factors and themselves in every order."""
    factors = [inputs_of(v, F.MUL) for v in (a, b)]
    first, second = factors
    if first is None or second is None:
        return
    for p, q in ((first, second), (second, first)):
        yield from product(((p[0], p[1]), (p[1], p[0])), ((q[0], q[1]), (q[1], q[0])))


def _rotated_halves(first: SSAValue, second: SSAValue) -> _Rotation | None:
    """a * cos - b * sin and b * cos + a * sin, where a and b are halves of one value."""
    difference, total = inputs_of(first, F.SUB), inputs_of(second, F.ADD)
    if difference is None or total is None:
        return None
    minuend, subtrahend = (inputs_of(v, F.MUL) for v in difference)
    if minuend is None or subtrahend is None:
        return None
    wanted = [set(p) for p in (inputs_of(v, F.MUL) for v in total) if p is not None]
    for (a, cos), (b, sin) in product((minuend, minuend[::-1]), (subtrahend, subtrahend[::-1])):
        whole = _whole(a, b)
        if whole is not None and {b, cos} in wanted and {a, sin} in wanted:
            return _Rotation(whole, cos, sin, False, is_half=True)
    return None


def _whole(a: SSAValue, b: SSAValue) -> _Span | None:
    """The numbers of which two values are the first and the second half."""
    first, second = _span(a), _span(b)
    if first is None or second is None or not first.is_of(second):
        return None
    if second.start != first.start + first.count or first.step != 1 or second.step != 1:
        return None
    if first.count != second.count:
        return None
    return replace(first, count=2 * first.count)


def _span(value: SSAValue) -> _Span | None:
    """The part that a value is of another one, which may be transposed before or after."""
    rank = len(shape_of(value))
    count = shape_of(value)[-1].constant if rank else None
    if count is None:
        return None
    order, start, step = tuple(range(rank)), 0, 1
    while True:
        op = value.owner
        if isinstance(op, TransposeOp) and op.permutation.get_values()[-1] == rank - 1:
            inner = op.permutation.get_values()
            order = tuple(inner[i] for i in order)
        elif isinstance(op, SliceOp) and op.dim.value.data == rank - 1:
            first, by = op.range.data[0].constant, op.step.value.data
            if first is None:
                return None
            start, step = first + start * by, step * by
        else:
            return _Span(value, order, start, step, count)
        value = op.input


def _is_turned(x: SSAValue, turned: SSAValue) -> bool | None:
    """Whether `turned` is x with the numbers of each pair exchanged, the first negated.

    True for pairs of neighbours, False for pairs across the halves, None for anything else.
    """
    whole, parts = _span(x), _parts(turned)
    if parts is None:
        return None
    negated, plain, interleaved = parts
    second, first = _span(negated), _span(plain)
    if whole is None or first is None or second is None:
        return None
    half = whole.count // 2
    step, apart = (2, 1) if interleaved else (1, half)
    wanted = replace(whole, step=step, count=half)
    fits = whole.step == 1 and first == wanted
    fits = fits and second == replace(wanted, start=whole.start + apart)
    return interleaved if fits and whole.count == 2 * half else None


def _parts(turned: SSAValue) -> tuple[SSAValue, SSAValue, bool] | None:
    """a, b and whether they are interleaved, of concat(-a, b) or interleave(-a, b)."""
    rank, interleaved = len(shape_of(turned)), False
    if (merged := owner(turned, ReshapeOp)) is not None:
        if len(shape_of(merged.input)) != rank + 1:
            return None
        turned, interleaved = merged.input, True
    op = owner(turned, ConcatOp)
    if op is None or len(op.inputs) != 2 or op.dim.value.data != len(shape_of(turned)) - 1:
        return None
    first, second = op.inputs
    if interleaved:
        columns = owner(first, ReshapeOp), owner(second, ReshapeOp)
        if columns[0] is None or columns[1] is None:
            return None
        if any(shape_of(c.result) != (*shape_of(c.input), ONE) for c in columns if c is not None):
            return None
        first, second = columns[0].input, columns[1].input
    negative = inputs_of(first, F.NEG)
    return None if negative is None else (negative[0], second, interleaved)


def _is_twice(table: SSAValue, interleaved: bool, depth: int = 12) -> bool:
    """Whether each number of a table's rows is there for both of its pair."""
    shape = shape_of(table)
    if not shape or shape[-1] == ONE or splat(table) is not None:
        return True
    op = table.owner
    if depth == 0 or _repeats(op, interleaved):
        return depth > 0
    if isinstance(op, ElementwiseOp):
        return all(_is_twice(v, interleaved, depth - 1) for v in op.inputs)
    if isinstance(op, ConcatOp) and op.dim.value.data != len(shape) - 1:
        return all(_is_twice(v, interleaved, depth - 1) for v in op.inputs)
    if not isinstance(op, CastOp | BroadcastOp | ReshapeOp | TransposeOp | SliceOp):
        return False
    before = shape_of(op.input)
    if isinstance(op, BroadcastOp) and (not before or before[-1] == ONE):
        return True
    moved = isinstance(op, TransposeOp) and op.permutation.get_values()[-1] != len(shape) - 1
    kept = bool(before) and before[-1] == shape[-1] and not moved
    return kept and _is_twice(op.input, interleaved, depth - 1)


def _repeats(op: object, interleaved: bool) -> bool:
    """Whether an op gives each number twice: one half after the other, or side by side."""
    if not interleaved:
        if not isinstance(op, ConcatOp) or op.dim.value.data != len(shape_of(op.result)) - 1:
            return False
        return len(op.inputs) == 2 and op.inputs[0] is op.inputs[1]
    if not isinstance(op, ReshapeOp):
        return False
    before, after = shape_of(op.input), shape_of(op.result)
    if before != (*after[:-1], before[-2], Dim.of(2)) if len(before) > 1 else True:
        return False
    grown = owner(op.input, BroadcastOp)
    if grown is not None:
        return shape_of(grown.input)[-1] == ONE
    stacked = owner(op.input, ConcatOp)
    return stacked is not None and len(set(stacked.inputs)) == 1


def _rope(g: Graph, r: _Rotation, count: int) -> SSAValue | None:
    """kaoken.rope of `count` numbers of each head, in the place of what is written out."""
    source = g.shape(r.x.source)
    shape = (*(source[i] for i in r.x.order[:-1]), Dim.of(count))
    at = _token_dim(g, r, shape)
    if at is None or g.dtype(r.x.source) != f32:
        return None
    x = g.slice(r.x.source, 3, Dim.of(r.x.start), Dim.of(r.x.start + count))
    batch, tokens, heads = shape[0], shape[at], shape[3 - at]
    x = g.transpose(x, r.x.order)
    if at == 2:
        x = g.transpose(x, [0, 2, 1, 3])
    rows = g.reshape(x, (batch, tokens, heads * count))
    cos, sin = (_pairs(g, table, r, tokens) for table in (r.cos, r.sin))
    properties = {
        "num_heads": int_attr(heads.constant or 1),
        "interleaved": BoolAttr.from_bool(r.interleaved),
    }
    rotated = g.reshape(
        g.make(RopeOp, [rows, cos, sin], properties), (batch, tokens, heads, shape[3])
    )
    return g.transpose(rotated, [0, 2, 1, 3]) if at == 2 else rotated


def _token_dim(g: Graph, r: _Rotation, shape: tuple[Dim, ...]) -> int | None:
    """1 or 2, whichever of x's dimensions the tables have rows for; None where neither is."""
    if len(shape) != 4 or g.shape(r.cos)[-1] != g.shape(r.sin)[-1]:
        return None
    padded = [(*(ONE,) * (4 - g.rank(table)), *g.shape(table))[:3] for table in (r.cos, r.sin)]
    for at in (2, 1):
        wanted = tuple(size if i == at else ONE for i, size in enumerate(shape[:3]))
        if padded[0] == padded[1] == wanted and shape[3 - at].constant is not None:
            return at
    return None


def _pairs(g: Graph, table: SSAValue, r: _Rotation, tokens: Dim) -> SSAValue:
    """[tokens, R/2] of a table."""
    size = r.x.count
    if not r.is_half:
        last = g.rank(table) - 1
        stop, step = (size - 1, 2) if r.interleaved else (size // 2, 1)
        table = g.slice(table, last, Dim.of(0), Dim.of(stop), step)
    return g.reshape(table, (tokens, Dim.of(size // 2)))


RULES = [Recogniser(ElementwiseOp, rotation), Recogniser(ConcatOp, joined)]

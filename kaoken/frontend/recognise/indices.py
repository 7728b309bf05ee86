"""Index arithmetic whose outcome is known: comparisons, gathers at positions in a row.

A tensor is *affine* where the number at (i, j, ...) is `offset + a*i + b*j + ...`, as
iota and what is computed from it by sums are.

    gather(x [B, T], iota(B) as [B, 1, 1], iota(T) as [1, 1, T])    -> reshape x to [B, 1, T]
    embedding(table [512, H], iota(T))                              -> slice table [0, T]
    iota >= 0                                                       -> true
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, IntegerType, bf16, f16, i1
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from kaoken.analysis.value_shapes import shape_of
from kaoken.dialect.attributes import Function, Shape
from kaoken.dialect.base import tensor_type
from kaoken.dialect.canonicalization.rules import splat
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import EmbeddingOp, WeightOp, broadcast_shapes
from kaoken.dialect.tensor import (
    BroadcastOp,
    CastOp,
    ConcatOp,
    CumsumOp,
    ElementwiseOp,
    GatherOp,
    IotaOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)
from kaoken.frontend.graph import ONE, Graph
from kaoken.frontend.recognise.matching import Recogniser, inputs_of
from kaoken.frontend.recognise.stored import stored_affine

F = Function
_DEPTH = 24
_COARSE = (bf16, f16)
"""Floats that do not hold all positions; f32 holds integers up to 2^24."""


@dataclass(frozen=True)
class Affine:
    """`offset + sum(slopes[d] * index[d])`; dimensions of size 1 have slope 0."""

    slopes: tuple[int, ...]
    offset: int

    @property
    def is_constant(self) -> bool:
        return not any(self.slopes)

    def __add__(self, other: Affine) -> Affine:
        rank = max(len(self.slopes), len(other.slopes))
        a, b = _padded(self.slopes, rank), _padded(other.slopes, rank)
        slopes = tuple(x + y for x, y in zip(a, b, strict=True))
        return Affine(slopes, self.offset + other.offset)

    def __mul__(self, factor: int) -> Affine:
        return Affine(tuple(a * factor for a in self.slopes), self.offset * factor)

    def bounds(self, shape: Shape, maxima: Mapping[str, int]) -> tuple[int, int] | None:
        """The smallest and largest number, for all sizes up to `maxima`."""
        low = high = self.offset
        for slope, dim in zip(self.slopes, shape, strict=True):
            if slope and not dim.symbols <= maxima.keys():
                return None
            extent = max(dim.evaluate(maxima) - 1, 0) if slope else 0
            low, high = low + min(slope, 0) * extent, high + max(slope, 0) * extent
        return low, high


def affine(value: SSAValue, depth: int = _DEPTH) -> Affine | None:
    """A tensor of integers, perhaps held as floats, as an affine function of the position in it."""
    type_ = tensor_type(value)
    if type_.element_type == i1 or type_.element_type in _COARSE or depth == 0:
        return None
    if (number := splat(value)) is not None:
        whole = float(number).is_integer()
        return Affine((0,) * type_.get_num_dims(), int(number)) if whole else None
    op = value.owner
    found = _affine_of(op, depth - 1) if isinstance(op, Operation) else None
    if found is None:
        return None
    shape = shape_of(value)
    slopes = (0 if d == ONE else a for a, d in zip(found.slopes, shape, strict=True))
    return Affine(tuple(slopes), found.offset)


def _affine_of(op: Operation, depth: int) -> Affine | None:
    if isinstance(op, IotaOp):
        return Affine((1,), op.start.value.data)
    if isinstance(op, WeightOp):
        found = stored_affine(op)
        return None if found is None else Affine(*found)
    if isinstance(op, ElementwiseOp):
        return _affine_arithmetic(op, depth)
    if isinstance(op, ConcatOp):
        return _affine_concat(op, depth)
    if isinstance(op, CumsumOp):
        return _affine_cumsum(op, depth)
    if not isinstance(op, BroadcastOp | CastOp | ReshapeOp | SliceOp | TransposeOp):
        return None
    inner = affine(op.input, depth)
    return None if inner is None else _affine_moved(op, inner)


def _all_affine(values: Sequence[SSAValue], depth: int) -> list[Affine] | None:
    """All of them, or None; it looks no further than the first that is not affine."""
    found: list[Affine] = []
    for value in values:
        if (form := affine(value, depth)) is None:
            return None
        found.append(form)
    return found


def _affine_moved(
    op: BroadcastOp | CastOp | ReshapeOp | SliceOp | TransposeOp, inner: Affine
) -> Affine | None:
    before, after = shape_of(op.input), shape_of(op.result)
    if isinstance(op, BroadcastOp):
        return Affine(_padded(inner.slopes, len(after)), inner.offset)
    if isinstance(op, TransposeOp):
        return Affine(tuple(inner.slopes[i] for i in op.permutation.get_values()), inner.offset)
    if isinstance(op, SliceOp):
        return _affine_slice(op, inner)
    if isinstance(op, CastOp):
        return inner
    kept = [a for a, d in zip(inner.slopes, before, strict=True) if d != ONE]
    if inner.is_constant:
        return Affine((0,) * len(after), inner.offset)
    if [d for d in before if d != ONE] != [d for d in after if d != ONE]:
        return None
    return Affine(tuple(0 if d == ONE else kept.pop(0) for d in after), inner.offset)


def _affine_slice(op: SliceOp, inner: Affine) -> Affine | None:
    at, start = op.dim.value.data, op.range.data[0].constant
    slopes = list(inner.slopes)
    if start is None and slopes[at]:
        return None
    offset = inner.offset + slopes[at] * (start or 0)
    slopes[at] *= op.step.value.data
    return Affine(tuple(slopes), offset)


def _affine_concat(op: ConcatOp, depth: int) -> Affine | None:
    """Pieces that go on where the one before them ends."""
    pieces = _all_affine(op.inputs, depth)
    if pieces is None or len(pieces) < 2:
        return None
    at, first = op.dim.value.data, pieces[0]
    sizes = [shape_of(v)[at] for v in op.inputs]
    slope = pieces[1].offset - first.offset if sizes[0] == ONE else first.slopes[at]
    slopes = (*first.slopes[:at], slope, *first.slopes[at + 1 :])
    start = Dim.of(0)
    for piece, size in zip(pieces, sizes, strict=True):
        own = piece.slopes if size != ONE else (*piece.slopes[:at], slope, *piece.slopes[at + 1 :])
        if own != slopes or start.constant is None:
            return None
        if piece.offset != first.offset + slope * start.constant:
            return None
        start = start + size
    return Affine(slopes, first.offset)


def _affine_cumsum(op: CumsumOp, depth: int) -> Affine | None:
    """Running sums of one number."""
    inner = affine(op.input, depth)
    if inner is None or not inner.is_constant:
        return None
    at = op.dim.value.data
    slopes = tuple(inner.offset if i == at else 0 for i in range(len(inner.slopes)))
    return Affine(slopes, inner.offset)


def _affine_arithmetic(op: ElementwiseOp, depth: int) -> Affine | None:
    function = op.function.data
    if function not in (F.ADD, F.SUB, F.MUL, F.NEG):
        return None
    known = _all_affine(op.inputs, depth)
    if known is None:
        return None
    if function is F.NEG:
        return known[0] * -1
    a, b = known
    if function is F.MUL:
        if a.is_constant:
            a, b = b, a
        return _aligned(a * b.offset, op) if b.is_constant else None
    return a + (b if function is F.ADD else b * -1)


def _aligned(form: Affine, op: ElementwiseOp) -> Affine:
    return Affine(_padded(form.slopes, len(shape_of(op.result))), form.offset)


def _padded(slopes: Sequence[int], rank: int) -> tuple[int, ...]:
    return (0,) * (rank - len(slopes)) + tuple(slopes)


def maxima_of(op: Operation) -> dict[str, int]:
    """The largest value of each symbol in the function around an op."""
    while op is not None and not isinstance(op, FuncOp):
        parent = op.parent_op()
        if parent is None:
            return {}
        op = parent
    limits = op.attributes.get("kaoken.max")
    if not isinstance(limits, DictionaryAttr):
        return {}
    return {k: v.value.data for k, v in limits.data.items() if isinstance(v, IntegerAttr)}


_SIGNS = {
    F.GE: lambda low, high: _decided(low >= 0, high < 0),
    F.GT: lambda low, high: _decided(low > 0, high <= 0),
    F.LE: lambda low, high: _decided(high <= 0, low > 0),
    F.LT: lambda low, high: _decided(high < 0, low >= 0),
    F.EQ: lambda low, high: _decided(low == high == 0, low > 0 or high < 0),
    F.NE: lambda low, high: _decided(low > 0 or high < 0, low == high == 0),
}
"""What a comparison with zero gives for every number of an interval, or None."""


def _decided(true: bool, false: bool) -> bool | None:
    return True if true else (False if false else None)


def known_comparison(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    """A comparison that comes out the same at every place, whatever the sizes."""
    if not op.function.data.is_comparison or (difference := _difference(op)) is None:
        return None
    bounds = difference.bounds(g.shape(op.result), maxima_of(op))
    if bounds is None or (outcome := _SIGNS[op.function.data](*bounds)) is None:
        return None
    return g.full(outcome, i1, g.shape(op.result))


def _difference(op: ElementwiseOp) -> Affine | None:
    a, b = affine(op.inputs[0]), affine(op.inputs[1])
    return None if a is None or b is None else a + b * -1


_OPPOSITES = {F.GE: F.LT, F.LT: F.GE, F.GT: F.LE, F.LE: F.GT, F.EQ: F.NE, F.NE: F.EQ}


def negated_comparison(g: Graph, op: ElementwiseOp) -> SSAValue | None:
    """not(a < b) of integers as a >= b."""
    inner = inputs_of(op.result, F.NOT)
    compared = inner[0].owner if inner is not None else None
    if not isinstance(compared, ElementwiseOp):
        return None
    opposite = _OPPOSITES.get(compared.function.data)
    if opposite is None or not isinstance(g.dtype(compared.inputs[0]), IntegerType):
        return None
    return g.elementwise(opposite, *compared.inputs)


def known_embedding(g: Graph, op: EmbeddingOp) -> SSAValue | None:
    """Rows of a table at positions that follow one another."""
    return _known_gather(g, op.table, [op.indices], 0)


def known_gather(g: Graph, op: GatherOp) -> SSAValue | None:
    return _known_gather(g, op.input, list(op.indices), op.dims.get_values()[0])


@dataclass(frozen=True)
class _Run:
    """Indices `start`, `start + 1`, ... along one dimension of the chosen shape, or one index."""

    start: int
    along: int | None


def _known_gather(
    g: Graph, value: SSAValue, indices: Sequence[SSAValue], first: int
) -> SSAValue | None:
    chosen = broadcast_shapes(*map(g.shape, indices))
    if (source := affine(value)) is not None and source.is_constant:
        shape = g.shape(value)
        grown = (*shape[:first], *chosen, *shape[first + len(indices) :])
        return g.full(source.offset, g.dtype(value), grown)
    maxima = maxima_of(indices[0].owner) if isinstance(indices[0].owner, Operation) else {}
    runs = [_run(g, index, len(chosen)) for index in indices]
    sizes = g.shape(value)[first : first + len(runs)]
    known = [r for r in runs if r is not None]
    along = [r.along for r in known if r.along is not None]
    if len(known) != len(runs) or len(set(along)) != len(along):
        return None
    pairs = list(zip(known, sizes, strict=True))
    if not all(_is_within(run, size, chosen, maxima) for run, size in pairs):
        return None
    for i, run in enumerate(known):
        count = ONE if run.along is None else chosen[run.along]
        value = g.slice(value, first + i, Dim.of(run.start), count + run.start)
    return _arranged(g, value, known, chosen, first)


def _run(g: Graph, index: SSAValue, rank: int) -> _Run | None:
    form = affine(index)
    if form is None:
        return None
    along = [d for d, slope in enumerate(_padded(form.slopes, rank)) if slope]
    if len(along) > 1 or any(slope not in (0, 1) for slope in form.slopes) or form.offset < 0:
        return None
    return _Run(form.offset, along[0] if along else None)


def _is_within(run: _Run, size: Dim, chosen: Shape, maxima: Mapping[str, int]) -> bool:
    count = ONE if run.along is None else chosen[run.along]
    if count + run.start == size:
        return True
    known = size.constant is not None and count.symbols <= maxima.keys()
    return known and run.start + count.evaluate(maxima) <= size.evaluate({})


def _arranged(
    g: Graph, value: SSAValue, runs: Sequence[_Run], chosen: Shape, first: int
) -> SSAValue:
    """Slices put into the order of the chosen shape, which they are then broadcast to."""
    shape = g.shape(value)
    order = sorted(range(len(runs)), key=lambda i: -1 if (a := runs[i].along) is None else a)
    last = first + len(runs)
    places = [*range(first), *(first + i for i in order), *range(last, len(shape))]
    value = g.transpose(value, places)
    used = {run.along for run in runs}
    middle = tuple(d if i in used else ONE for i, d in enumerate(chosen))
    value = g.reshape(value, (*shape[:first], *middle, *shape[last:]))
    return g.broadcast(value, (*shape[:first], *chosen, *shape[last:]))


RULES = [
    Recogniser(ElementwiseOp, known_comparison),
    Recogniser(ElementwiseOp, negated_comparison),
    Recogniser(EmbeddingOp, known_embedding),
    Recogniser(GatherOp, known_gather),
]

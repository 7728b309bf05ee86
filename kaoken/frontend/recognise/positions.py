"""What distances between tokens add to the scores of attention, as a table of distances.

    %d = kaoken.elementwise sub %iota, %column        # j - i, over [tokens, tokens]
    %b = kaoken.embedding %table, bucket(%d)          # integer arithmetic, logarithms
    %m = kaoken.transpose %b [2, 0, 1]
    %y = kaoken.attention %q, %k, %v mask select(%j <= %i, %m, -3.4e38)
->
    %d = kaoken.iota start -63 to <[64]>              # the distances -63 .. 0
    %b = kaoken.embedding %table, bucket(%d)          # known before the program runs
    %m = kaoken.transpose %b [1, 0]
    %y = kaoken.attention %q, %k, %v position_bias %m {causal = true, bias_origin = 63}

A mask is a function of distances where it is made by ops on single elements, and all positions
that they read meet in one difference `j - i`. The same ops on a row of distances give the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from xdsl.dialects.builtin import BoolAttr, DictionaryAttr, IntegerAttr, i1
from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue

from kaoken.analysis.constants import is_constant
from kaoken.dialect.attributes import Function, Shape, int_attr
from kaoken.dialect.canonicalization.rules import splat
from kaoken.dialect.dims import Dim
from kaoken.dialect.nn import AttentionOp, EmbeddingOp
from kaoken.dialect.tensor import BroadcastOp, CastOp, ElementwiseOp, ReshapeOp, TransposeOp
from kaoken.frontend.graph import ONE, Graph
from kaoken.frontend.recognise.indices import affine
from kaoken.frontend.recognise.masks import HIDDEN, is_causal
from kaoken.frontend.recognise.matching import Recogniser, inputs_of, number

F = Function
Build = Callable[[], SSAValue]


def position_bias(g: Graph, op: AttentionOp) -> SSAValue | None:
    """Attention with a float mask that is a function of distances, as one with a table of them."""
    if op.mask is None or op.position_bias is not None or g.dtype(op.mask) == i1:
        return None
    tokens = g.shape(op.key)[1]
    most = _largest(op, tokens)
    if most is None or g.shape(op.query)[1] != tokens:
        return None
    bias, causal = _without_causality(op.mask, bool(op.causal.value.data))
    if g.shape(bias)[-2:] != (tokens, tokens) or g.shape(bias)[:-3] not in ((), (ONE,)):
        return None
    distances = _Distances(g, most if causal else 2 * most - 1, 1 - most)
    rank = g.rank(bias)
    if (build := distances.of(bias, rank - 2, rank - 1)) is None:
        return None
    table = _by_heads(g, build(), op.heads, distances.count)
    properties = {
        **op.properties,
        "causal": BoolAttr.from_bool(causal),
        "bias_origin": int_attr(most - 1),
    }
    return g.make(AttentionOp, [op.query, op.key, op.value, None, table], properties)


def _without_causality(mask: SSAValue, causal: bool) -> tuple[SSAValue, bool]:
    """b and true for `select(column <= row, b, -inf)`."""
    parts = inputs_of(mask, F.SELECT)
    if parts is None or not is_causal(parts[0]):
        return mask, causal
    hidden = number(parts[2])
    return (parts[1], True) if hidden is not None and hidden <= HIDDEN else (mask, causal)


def _by_heads(g: Graph, table: SSAValue, heads: int, count: Dim) -> SSAValue:
    """[.., H, 1, count] as [heads, count]; what is the same for all heads, for each of them."""
    shape = g.shape(table)
    rows = shape[-3] if len(shape) > 2 else ONE
    return g.broadcast(g.reshape(table, (rows, count)), (Dim.of(heads), count))


def _largest(op: AttentionOp, size: Dim) -> int | None:
    """The most that a size may be."""
    function = op.parent_op()
    declared = function.attributes.get("kaoken.max") if isinstance(function, FuncOp) else None
    values = declared.data if isinstance(declared, DictionaryAttr) else {}
    maxima = {k: v.value.data for k, v in values.items() if isinstance(v, IntegerAttr)}
    return size.evaluate(maxima) if size.symbols <= maxima.keys() else None


@dataclass
class _Distances:
    """Makes functions of `j - i` functions of the distances `first .. first + size`."""

    g: Graph
    size: int
    first: int
    built: dict[SSAValue, SSAValue] = field(default_factory=dict)

    @property
    def count(self) -> Dim:
        return Dim.of(self.size)

    def of(self, value: SSAValue, row: int, column: int) -> Build | None:
        """How to make a value [.., i at `row`, .., j at `column`, ..] with 1 row and all distances.

        A negative place says that the value lacks that dimension. None where it is no function of
        `j - i`.
        """
        build = self._leaf(value, row, column) or self._inner(value, row, column)
        if build is None:
            return None

        def once() -> SSAValue:
            if value not in self.built:
                self.built[value] = build()
            return self.built[value]

        return once

    def _leaf(self, value: SSAValue, row: int, column: int) -> Build | None:
        g, shape = self.g, self.g.shape(value)
        if not any(place >= 0 and shape[place] != ONE for place in (row, column)):
            return lambda: value
        if (constant := splat(value)) is not None:
            return lambda: g.full(constant, g.dtype(value), (ONE,) * len(shape))
        if (found := affine(value)) is None or min(row, column) < 0:
            return None
        slope = found.slopes[column]
        wanted = [slope if d == column else -slope if d == row else 0 for d in range(len(shape))]
        if slope not in (1, -1) or list(found.slopes) != wanted:
            return None
        return lambda: self._line(value, slope, found.offset, column)

    def _line(self, value: SSAValue, slope: int, offset: int, column: int) -> SSAValue:
        """slope * distance + offset, along dimension `column`."""
        g, dtype = self.g, self.g.dtype(value)
        line = g.cast(g.iota(self.count, self.first), dtype)
        for function, by in ((F.MUL, slope), (F.ADD, offset)):
            line = g.elementwise(function, line, g.full(by, dtype))
        shape: list[Dim] = [ONE] * g.rank(value)
        shape[column] = self.count
        return g.reshape(line, tuple(shape))

    def _inner(self, value: SSAValue, row: int, column: int) -> Build | None:
        g, op = self.g, value.owner
        if isinstance(op, ElementwiseOp):
            parts = [self._operand(v, value, row, column) for v in op.inputs]
            known = [part for part in parts if part is not None]
            function = op.function.data
            whole = len(known) == len(parts)
            return (lambda: g.elementwise(function, *(b() for b in known))) if whole else None
        if isinstance(op, CastOp):
            return self._after(op.input, row, column, lambda x: g.cast(x, g.dtype(value)))
        if isinstance(op, TransposeOp):
            order = list(op.permutation.get_values())
            places = order[row], order[column]
            return self._after(op.input, *places, lambda x: g.transpose(x, order))
        if isinstance(op, EmbeddingOp) and is_constant(op.table):
            table = op.table
            return self._after(op.indices, row, column, lambda x: g.make(EmbeddingOp, [table, x]))
        return self._moved(op, row, column) if isinstance(op, ReshapeOp | BroadcastOp) else None

    def _after(
        self, value: SSAValue, row: int, column: int, then: Callable[[SSAValue], SSAValue]
    ) -> Build | None:
        build = self.of(value, row, column)
        return None if build is None else lambda: then(build())

    def _operand(self, value: SSAValue, result: SSAValue, row: int, column: int) -> Build | None:
        """An operand that is broadcast to the result: its dimensions are the last ones."""
        missing = self.g.rank(result) - self.g.rank(value)
        return self.of(value, row - missing, column - missing)

    def _moved(self, op: ReshapeOp | BroadcastOp, row: int, column: int) -> Build | None:
        """A reshape that adds or drops ones, or a broadcast."""
        g, before, after = self.g, self.g.shape(op.input), self.g.shape(op.result)
        if isinstance(op, BroadcastOp):
            lead = (ONE,) * (len(after) - len(before))
            build = self._operand(op.input, op.result, row, column)
            if build is None:
                return None
            return lambda: g.reshape(build(), lead + g.shape(build()))
        if [d for d in before if d != ONE] != [d for d in after if d != ONE]:
            return None
        old_row, old_column = (_place(after, before, at) for at in (row, column))

        def reshape(x: SSAValue) -> SSAValue:
            length = g.shape(x)[old_column] if old_column >= 0 else ONE
            new = {row: ONE, column: length}
            return g.reshape(x, tuple(new.get(d, size) for d, size in enumerate(after)))

        return self._after(op.input, old_row, old_column, reshape)


def _place(shape: Shape, other: Shape, at: int) -> int:
    """Where a dimension of `shape` is in `other`, which has other ones between; -1 for a one."""
    if at < 0 or shape[at] == ONE:
        return -1
    order = [d for d, size in enumerate(other) if size != ONE]
    return order[sum(size != ONE for size in shape[:at])]


RULES = [Recogniser(AttentionOp, position_bias)]

"""Which keys a query of attention sees: addends of the scores, and the range that is worth a look.

    addend[r, j] = 0, the mask's addend, or -inf for keys that are hidden or beyond the last
    first, last = the least and the greatest key with an addend that does not hide it

A mask that is the same for all queries has one row of addends, made once a head; another has a row
for each query of a block. Scores, softmax and output pass over keys first .. last alone: what lies
beyond has the probability 0, and sums that lack zeros at their ends keep their bits. Causality
needs no addends: it ends the range of a block of queries, and cuts the scores of its last panels; a
window begins the range too.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects import arith
from xdsl.dialects.builtin import IndexType, MemRefType, f32, i1, i32
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr

from kaoken.dialect.base import tensor_type
from kaoken.dialect.dims import Dim
from kaoken.passes.lowering.attention_plan import Plan
from kaoken.passes.lowering.nest import Bounds, Extent, Index, Span
from kaoken.passes.lowering.rows import LOWEST

MINUS_INFINITY = float("-inf")
SEEN = LOWEST / 2
"""Lesser addends hide a key from all who see another: scores differ by more than exp can show."""


@dataclass(frozen=True)
class Keys:
    """The keys from `first` on and before `last`."""

    plan: Plan
    first: Index
    last: Index

    @property
    def is_all(self) -> bool:
        return self.first == 0 and self.last is self.plan.keys

    def steps(self, size: int = 1) -> Bounds:
        """Bounds of a loop over blocks of `size` keys that hold all of these."""
        if self.is_all:
            return Extent.of(self.plan.keys).ceildiv(size)
        n = self.plan.n
        if size == 1:
            return Span(n.index(self.first), n.index(self.last))
        first = n.affine(lambda first: first // size, self.first)
        return Span(first, n.affine(lambda last: last.ceil_div(size), self.last))

    def steps_of_panels(self, size: int) -> Bounds:
        """Bounds of a loop over blocks of `size` keys in all panels that hold any of these."""
        n, panel, count = self.plan.n, self.plan.panel, self.plan.panel // size
        if self.is_all:
            return Extent.of(self.plan.keys).ceildiv(panel).times(count)
        first = n.affine(lambda first: first // panel * count, self.first)
        return Span(first, n.affine(lambda last: last.ceil_div(panel) * count, self.last))

    @property
    def may_end_within_a_panel(self) -> bool:
        return not isinstance(self.last, int) or self.last % self.plan.panel != 0

    def whole_panels(self) -> Bounds:
        """Bounds of a loop over the panels of which these keys hold all but maybe the first."""
        if self.is_all:
            return Extent.of(self.plan.keys).floordiv(self.plan.panel)
        first = self.plan.n.affine(lambda first: first // self.plan.panel, self.first)
        return Span(first, self.last_panel()[0])

    def last_panel(self) -> tuple[SSAValue, Bounds]:
        """The panel of which these keys hold the beginning, and how many keys that is."""
        n, size = self.plan.n, self.plan.panel
        panel = n.affine(lambda last: last // size, self.last)
        if self.is_all:
            return panel, Extent.of(self.plan.keys).rest(size)
        return panel, Span(n.index(0), n.affine(lambda last: last % size, self.last))


class Masks:
    """The masks of one head."""

    def __init__(self, plan: Plan, b: SSAValue, h: SSAValue):
        self.plan, self.n, self.b, self.h = plan, plan.n, b, h
        self.per_query = plan.mask is not None and not plan.has_key_mask
        rows = plan.rows if self.per_query else 1
        self.addends: SSAValue | None = None
        self.keys = self.all = Keys(plan, 0, plan.keys)
        if plan.mask is not None or self.all.may_end_within_a_panel:
            self.addends = plan.n.alloc(MemRefType(f32, [rows, plan.stride]), "addend")

    def start_head(self) -> None:
        """Find the keys that any query may see."""
        if self.addends is None or self.per_query:
            return
        self._fill(0, 0)
        if self.plan.has_key_mask:
            self.keys = self._range(self.keys, Extent.of(1))

    def start_block(self, start: SSAValue, rows: Extent) -> Keys:
        """The keys that queries start .. start + rows may see."""
        keys = self.keys
        if self.per_query:
            with self.n.parallel("row", rows) as i:
                self._fill(i, self.n.add_index(start, i))
            if self.plan.mask is not None and self._is_bool:
                keys = self._range(keys, rows)
        if self.plan.op.causal.value.data:
            end = self._end(start, self.plan.rows)
            last = self.n.insert(arith.MinSIOp(end, self.n.index(keys.last)))
            keys = Keys(self.plan, self._begin(start, keys.first), last)
        return keys

    def seen_by(self, query: SSAValue, keys: Keys) -> Keys:
        """Of some keys those that are not ahead of one query."""
        if not self.plan.op.causal.value.data:
            return keys
        n = self.n
        last = n.insert(arith.MinSIOp(self._end(query, 1), n.index(keys.last)))
        return Keys(self.plan, keys.first, n.insert(arith.MaxSIOp(last, n.index(0))))

    def _begin(self, start: SSAValue, first: Index) -> Index:
        """The first key, from `first` on, in the window of query `start`."""
        window = self.plan.op.window
        if window is None:
            return first
        begin = self._end(start, 1 - window.value.data)
        return self.n.insert(arith.MaxSIOp(begin, self.n.index(first)))

    def _end(self, query: SSAValue, rows: int) -> SSAValue:
        """The first key that lies ahead of `rows` queries from `query` on; or that many before."""

        def end(query: AffineExpr, keys: AffineExpr, queries: AffineExpr) -> AffineExpr:
            return query + keys - queries + rows

        return self.n.affine(end, query, self.plan.keys, self.plan.queries)

    def add(self, score: SSAValue, i: SSAValue, j: SSAValue) -> SSAValue:
        """The score of query i of the block and key j, with what the mask adds."""
        if self.addends is None:
            return score
        addend = self.n.load(self.addends, i if self.per_query else 0, j)
        return self.n.insert(arith.AddfOp(score, addend))

    def hide_unseen(self, start: SSAValue, rows: Extent, keys: Keys, scores: SSAValue) -> None:
        """Cut what is ahead of a query, or before its window, in the panels where any key is."""
        if not self.plan.op.causal.value.data:
            return
        n, panel = self.n, self.plan.panel
        with n.parallel("row", rows) as i, n.parallel("j0", self._cut_panels(start, keys)) as j0:
            end = self._end(n.index(n.add_index(start, i)), 1)
            with n.parallel("lane", panel) as j1:
                j = n.affine(lambda j0, j1: j0 * panel + j1, j0, j1)
                score = self._if_seen(n.load(scores, i, j), j, end)
                n.store(score, scores, i, j)

    def _cut_panels(self, start: SSAValue, keys: Keys) -> Span:
        """The panels that hold keys which one of a block's queries sees and another does not."""
        panels = keys.steps(self.plan.panel)
        assert isinstance(panels, Span)
        if self.plan.op.window is not None:
            return panels
        cut = self.n.affine(lambda end: end // self.plan.panel, self._end(start, 1))
        return Span(self.n.insert(arith.MaxSIOp(cut, panels.first)), panels.last)

    def _if_seen(self, score: SSAValue, j: SSAValue, end: SSAValue) -> SSAValue:
        """A score where key j is before `end` and in the window that ends there, else -inf."""
        n, window = self.n, self.plan.op.window
        hidden = n.constant(MINUS_INFINITY, f32)
        score = n.insert(arith.SelectOp(n.insert(arith.CmpiOp(j, end, "slt")), score, hidden))
        if window is None:
            return score
        begin = n.affine(lambda end: end - window.value.data, end)
        return n.insert(arith.SelectOp(n.insert(arith.CmpiOp(j, begin, "sge")), score, hidden))

    def _fill(self, row: Index, query: Index) -> None:
        """A row of addends: whole panels, then a panel that holds what is left."""
        n, panel = self.n, self.plan.panel
        with n.parallel("j0", self.all.whole_panels()) as j0, n.parallel("lane", panel) as j1:
            self._store(n.affine(lambda j0, j1: j0 * panel + j1, j0, j1), row, query)
        if not self.all.may_end_within_a_panel:
            return
        last, rest = self.all.last_panel()
        with n.parallel("lane", panel) as j1:
            hidden = n.constant(MINUS_INFINITY, f32)
            n.store(hidden, self._buffer, row, n.affine(lambda j0, j1: j0 * panel + j1, last, j1))
        with n.parallel("rest", rest) as j1:
            self._store(n.affine(lambda j0, j1: j0 * panel + j1, last, j1), row, query)

    @property
    def _buffer(self) -> SSAValue:
        assert self.addends is not None
        return self.addends

    def _store(self, j: SSAValue, row: Index, query: Index) -> None:
        n = self.n
        addend = n.constant(0.0, f32)
        if self.plan.mask is not None:
            addend = self._mask_addend((self.b, self.h, query, j))
        n.store(addend, self._buffer, row, j)

    @property
    def _is_bool(self) -> bool:
        mask = self.plan.op.mask
        return mask is not None and tensor_type(mask).element_type == i1

    def _mask_addend(self, at: tuple[Index, Index, Index, Index]) -> SSAValue:
        n, mask = self.n, self.plan.mask
        assert mask is not None
        assert self.plan.op.mask is not None
        one = Dim.of(1)
        indices = [0 if d == one else i for d, i in zip(self.plan.mask_shape, at, strict=True)]
        rank = tensor_type(self.plan.op.mask).get_num_dims()
        value = n.load(mask, *indices[4 - rank :])
        if value.type != i1:
            return value
        seen, hidden = n.constant(0.0, f32), n.constant(MINUS_INFINITY, f32)
        return n.insert(arith.SelectOp(value, seen, hidden))

    def _range(self, keys: Keys, rows: Extent) -> Keys:
        """From the first to the last of some keys that any row of addends lets be seen.

        Where that is none, as a mask that adds the least number to all says, they are all alike.
        """
        n, panel = self.n, self.plan.panel
        none = n.insert(arith.SIToFPOp(self._as_i32(n.index(self.plan.keys)), f32))
        zero = n.constant(0.0, f32)

        def look(i: SSAValue, j0: SSAValue, j1: SSAValue, acc: list[SSAValue]) -> list[SSAValue]:
            j = n.affine(lambda j0, j1: j0 * panel + j1, j0, j1)
            number = n.insert(arith.SIToFPOp(self._as_i32(j), f32))
            after = n.insert(arith.AddfOp(number, n.constant(1.0, f32)))
            addend = n.load(self._buffer, i, j)
            seen = n.insert(arith.CmpfOp(addend, n.constant(self._least_seen, f32), "oge"))
            first = n.insert(arith.SelectOp(seen, number, none))
            last = n.insert(arith.SelectOp(seen, after, zero))
            return [
                n.insert(arith.MinimumfOp(acc[0], first)),
                n.insert(arith.MaximumfOp(acc[1], last)),
            ]

        def panels(i: SSAValue, acc: list[SSAValue]) -> list[SSAValue]:
            def lanes(j0: SSAValue, acc: list[SSAValue]) -> list[SSAValue]:
                return n.reduce("j1", panel, acc, lambda j1, acc: look(i, j0, j1, acc))

            return n.reduce("j0", keys.steps(panel), acc, lanes)

        first, last = n.reduce("row", rows, [none, zero], panels)
        some = n.insert(arith.CmpfOp(last, zero, "ogt"))
        bounds = [self._as_index(value) for value in (first, last)]
        every = (n.index(0), n.index(self.plan.keys))
        first, last = (
            n.insert(arith.SelectOp(some, bound, other))
            for bound, other in zip(bounds, every, strict=True)
        )
        return Keys(self.plan, first, last)

    @property
    def _least_seen(self) -> float:
        """With causality, a query may see no key but those that the least number was added to."""
        return LOWEST if self.plan.op.causal.value.data else SEEN

    def _as_i32(self, index: SSAValue) -> SSAValue:
        return self.n.insert(arith.IndexCastOp(index, i32))

    def _as_index(self, value: SSAValue) -> SSAValue:
        number = self.n.insert(arith.FPToSIOp(value, i32))
        return self.n.insert(arith.IndexCastOp(number, IndexType()))
